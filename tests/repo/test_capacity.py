"""The page on capacity computes what it says it computes."""

import re
from pathlib import Path

import pytest

import sightline
from sightline.retrieval.token_states import SPANS, states_form

PAGE = Path(sightline.__file__).parent / "docs" / "guides" / "capacity.md"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="not a source tree")
PASSAGES = {"1 million": 1e6, "10 million": 1e7, "100 million": 1e8, "1 billion": 1e9}


def _number(text):
    return int(text.replace(",", ""))


def test_the_table_follows_from_the_formula():
    text = PAGE.read_text()
    kept, tokens = (_number(one) for one in re.search(r"\| ([\d,]+) a passage \| SciFact, (\d+) tokens", text).groups())
    rate = int(re.search(r"\| (\d+) a second in float32", text)[1])
    size = {kind: tokens * (states_form(kind, 384).dtype.itemsize + SPANS.itemsize) for kind in ("int8", "pq48")}
    gigabytes = r" \| ([\d,]+) GB"
    rows = re.findall(rf"^\| (1+0* \w+){gigabytes * 3} \| ([\d,]+) \|$", text, re.MULTILINE)
    assert [row[0] for row in rows] == list(PASSAGES)
    for name, *figures in rows:
        passages, plain = PASSAGES[name], kept + 4 * 384
        expected = [plain + size["int8"], plain + size["pq48"], plain]
        expected = [passages * each / 1e9 for each in expected] + [passages / rate / 3600]
        assert [_number(figure) for figure in figures] == [round(value) for value in expected]


def test_bytes_of_a_state_are_those_of_its_form():
    named = re.search(r"state: one token's state in (.*?) \| ([\d, ]+) a token", PAGE.read_text())
    kinds, sizes = re.findall(r"`(\w+)`", named[1]), [int(size) for size in named[2].split(", ")]
    assert sizes == [states_form(kind, 384).dtype.itemsize for kind in kinds]
