"""Guides that list what the code has list all of it."""

import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import sightline
from sightline.rerank.layout import Layout, ReadoutSpec, layout_fields, shipped_layouts

GUIDES = Path(sightline.__file__).parent / "docs" / "guides"
pytestmark = pytest.mark.skipif(not GUIDES.exists(), reason="not a source tree")


def _section(text, heading):
    return text.partition(f"### {heading}\n")[2].partition("\n### ")[0]


def _first_cells(text):
    rows = re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([\w-]+)`", row)]


def test_the_page_on_layouts_has_every_field_in_its_section():
    text = (GUIDES / "layouts.md").read_text(encoding="utf-8")
    fields = dict.fromkeys(Layout.__dataclass_fields__, "") | dict(layout_fields())
    fields |= {"base": "", "readout": "", "prompt": ""}
    sections = {"": "At the top", "readout": "Under `readout`", "prompt": "Under `prompt`"}
    for section, heading in sections.items():
        expected = {name for name, where in fields.items() if where == section}
        expected |= {"readout"} if section == "readout" else set()
        named = _first_cells(_section(text, heading).partition("What the readouts compute:")[0])
        assert sorted(set(named)) == sorted(expected)


def test_the_page_on_layouts_has_every_readout():
    text = (GUIDES / "layouts.md").read_text(encoding="utf-8").partition("What the readouts compute:")[2]
    readouts = get_args(get_type_hints(ReadoutSpec)["readout"])
    assert sorted(_first_cells(text.partition("\n### ")[0])) == sorted(readouts)


def test_the_page_on_decoders_has_every_layout_that_ships():
    text = (GUIDES / "decoders.md").read_text(encoding="utf-8").partition("## Which layout")[2].partition("\n## ")[0]
    shipped = {name for name, kind in shipped_layouts().items() if kind == "decoder"}
    rows = re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([\w.-]+)`", row)} - {"smollm2", "sightline-135m"}
    assert named == shipped
