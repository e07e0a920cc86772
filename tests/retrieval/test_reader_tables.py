import csv
import io
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sightline.documents import Document
from sightline.errors import DataError
from sightline.retrieval.sources import LoadSummary, load_documents


def read(tmp_path, name, text, **options):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(load_documents(path, **options))


def column(tmp_path, cells, **options):
    rows = "".join(f'{number},t,"{cell}"\n' for number, cell in enumerate(cells))
    documents = read(tmp_path, "x.csv", f"id,text,x\n{rows}", **options)
    return [document.metadata.get("x", "absent") for document in documents]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["2020", "1999"], [2020, 1999]),
        (["1.5", "-2", "1e3"], [1.5, -2, 1000.0]),
        (["1", "", " "], [1, "absent", "absent"]),
        (["true", "False", "TRUE"], [True, False, True]),
        (["1", "true"], ["1", "true"]),
        (["1", "x"], ["1", "x"]),
        (["01234", "99999"], ["01234", "99999"]),
        (["+1", "2"], ["+1", "2"]),
        (["1,000", "2"], ["1,000", "2"]),
        (["1e999", "2"], ["1e999", "2"]),
        ([".5", "1"], [".5", "1"]),
        (["1" * 400, "1"], ["1" * 400, "1"]),
        (["NaN", "1"], ["NaN", "1"]),
        (["1_000", "2"], ["1_000", "2"]),
        (["١", "2"], ["١", "2"]),
    ],
)
def test_a_column_is_typed_as_a_whole(cells, expected, tmp_path):
    values = column(tmp_path, cells)
    assert values == expected and list(map(type, values)) == list(map(type, expected))
    assert column(tmp_path, cells, csv_types="text") == cells


def test_ids_titles_and_texts_stay_strings(tmp_path):
    text = "id\ttitle\ttext\tn\n007\t1984\t42\t7\n"
    assert read(tmp_path, "x.tsv", text) == [Document("007", "42", "1984", {"n": 7})]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(
    st.lists(st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans(), min_size=1, max_size=5)
)
def test_numbers_come_back_as_they_were_written(tmp_path, numbers):
    cells = [json.dumps(number) for number in numbers]
    mixed = len({isinstance(number, bool) for number in numbers}) > 1
    assert column(tmp_path, cells) == (cells if mixed else numbers)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_header_shows_the_delimiter(delimiter, tmp_path):
    rows = [["id", "long, text; a|b", "text", "n"], ["1", "x", f"one, two; three | four\t{delimiter}", "5"]]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter).writerows(rows)
    assert read(tmp_path, "x.csv", file.getvalue()) == [
        Document("1", rows[1][2], metadata={"long, text; a|b": "x", "n": 5})
    ]


def test_delimiters_can_be_given_or_said_in_the_file(tmp_path):
    assert read(tmp_path, "x.csv", "id:text\n1:a,b\n", delimiter=":") == [Document("1", "a,b")]
    assert read(tmp_path, "x.csv", 'sep=^\r\nid^text\r\n1^"a^b"\r\n') == [Document("1", "a^b")]


def test_tables_without_a_header(tmp_path):
    assert read(tmp_path, "collection.tsv", '0\tA "text"\n1\tB\n') == [Document("0", 'A "text"'), Document("1", "B")]
    assert read(tmp_path, "docs.tsv", "D15\thttp://x\tT\tB\n") == [Document("D15", "B", "T", {"url": "http://x"})]
    (tmp_path / "msmarco").mkdir()
    (tmp_path / "msmarco" / "collection.tsv").write_text("7\tseven\n")
    assert list(load_documents(tmp_path / "msmarco")) == [Document("7", "seven")]
    named = read(tmp_path, "x.csv", "a,b,1\nc,d,2\n", columns=["id", "text", "n"])
    assert named == [Document("a", "b", metadata={"n": 1}), Document("c", "d", metadata={"n": 2})]
    with pytest.raises(DataError, match=r"no field '_id' or .*there are: 'name', 'words'"):
        read(tmp_path, "x.tsv", "name\twords\na\tb\n")


@pytest.mark.parametrize("mark", [True, False])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "cp1252"])
@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.jsonl", "x.json", "x.txt"])
def test_encodings(name, encoding, mark, tmp_path):
    if mark and encoding == "cp1252":
        pytest.skip("has no byte order mark")
    text = {
        "x.csv": "id,text\n1,café\n",
        "x.tsv": "id\ttext\n1\tcafé\n",
        "x.jsonl": '{"id": "1", "text": "café"}\n',
        "x.json": '[{"id": "1", "text": "café"}]',
        "x.txt": "café",
    }[name]
    data = (("\ufeff" if mark else "") + text).encode(encoding)
    options = {} if mark or encoding == "utf-8" else {"encoding": encoding}
    assert [document.text for document in read(tmp_path, name, data, **options)] == ["café"]
    if options:
        with pytest.raises(DataError):
            read(tmp_path, name, data)


def test_what_is_not_utf8_names_the_way_out(tmp_path):
    with pytest.raises(DataError, match=re.escape(":2: not UTF-8: byte 6 of the line is 0xe9")) as caught:
        read(tmp_path, "x.csv", "id,text\n1,café\n".encode("cp1252"))
    assert "--encoding" in str(caught.value)
    with pytest.raises(DataError, match="not utf-16"):
        read(tmp_path, "x.csv", "id,text\n1,a\n", encoding="utf-16")


def test_big_cells_are_read_and_endless_lines_refused(tmp_path):
    assert len(read(tmp_path, "x.csv", "id,text\n1," + "t" * 500_000)[0].text) == 500_000
    starts = {"x.csv": b"id,text\n1,", "x.tsv": b"id\ttext\n1\t", "x.jsonl": b"{", "x.json": b"["}
    for name, start in starts.items():
        with (tmp_path / name).open("wb") as file:
            file.write(start)
            file.truncate(1 << 31)
        with pytest.raises(DataError, match="more than 64 MiB"):
            list(load_documents(tmp_path / name))


def test_json_arrays_and_missing_values(tmp_path):
    assert read(tmp_path, "x.json", '[{"id": 1, "text": "a", "n": NaN}, {"id": 2, "text": null}]') == [
        Document("1", "a"),
        Document("2", ""),
    ]
    assert read(tmp_path, "x.json", '{"id": 1, "text": "a"}\n{"id": 2, "text": "b"}') == [
        Document("1", "a"),
        Document("2", "b"),
    ]
    for broken in ('[{"id": 1', "[1]", '{"id": 1, "text": "a", "n": Infinity}'):
        with pytest.raises(DataError):
            read(tmp_path, "x.json", broken)


def test_the_summary_tells_how_far_the_reading_has_come(tmp_path):
    path, summary = tmp_path / "x.jsonl", LoadSummary()
    path.write_text("".join(json.dumps({"id": n, "text": "word " * 50}) + "\n" for n in range(2000)))
    documents, seen = load_documents(path, summary=summary), []
    for _ in documents:
        seen.append(summary.done)
    assert (summary.unit, summary.done, summary.total) == ("bytes", path.stat().st_size, path.stat().st_size)
    assert seen == sorted(seen) and len(set(seen)) > 5
    assert summary.progress.startswith("100% of 0.5 MB") or summary.progress.startswith("100% of 0.6 MB")
