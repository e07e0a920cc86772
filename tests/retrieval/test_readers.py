import csv
import gzip
import io
import json
import logging
import sys
import tracemalloc
from datetime import UTC, date, datetime

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sightline.documents import Document
from sightline.errors import DataError, InputError, MissingExtraError
from sightline.retrieval import sources as readers
from sightline.retrieval.sources import LoadSummary, load_documents

GOOD = [{"_id": "a", "title": "A", "text": "one"}, {"_id": "b", "title": "B", "text": "two"}]


def jsonl(*lines):
    return b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def ids(source, **options):
    return [document.id for document in load_documents(source, **options)]


# ---- Bad records: put between two good ones, in every format that can hold them

BAD_JSON = {
    "truncated": b'{"_id": "x", "text": "t',
    "bare word": b"hello",
    "two values": b'{"_id": "x", "text": "t"} {"_id": "y", "text": "t"}',
    "trailing comma": b'{"_id": "x", "text": "t",}',
    "single quotes": b"{'_id': 'x', 'text': 't'}",
    "comment": b'{"_id": "x", "text": "t"} // x',
    "array": b'["x", "t"]',
    "string": b'"x"',
    "number": b"17",
    "null": b"null",
    "true": b"true",
    "minus infinity": b'{"_id": "x", "text": "t", "w": -Infinity}',
    "huge float": b'{"_id": "x", "text": "t", "w": 1e999}',
    "huge integer": b'{"_id": "x", "text": "t", "w": ' + b"1" * 5000 + b"}",
    "deep": b'{"_id": "x", "text": "t", "w": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "less deep": b'{"_id": "x", "text": "t", "w": ' + b"[" * 900 + b"]" * 900 + b"}",
    "same field twice": b'{"_id": "x", "_id": "y", "text": "t"}',
    "raw control character": b'{"_id": "x", "text": "a\x01b"}',
    "raw NUL": b'{"_id": "x", "text": "a\x00b"}',
    "bad escape": b'{"_id": "x", "text": "a\\qb"}',
    "latin-1": '{"_id": "x", "text": "café"}'.encode("latin-1"),
    "utf-16": '{"_id": "x", "text": "t"}'.encode("utf-16"),
    "encoded surrogate": b'{"_id": "x", "text": "a\xed\xa0\x80b"}',
    "overlong": b'{"_id": "x", "text": "a\xc0\xafb"}',
    "cut character": b'{"_id": "x", "text": "a\xe2\x82"}',
    "second byte order mark": b'\xef\xbb\xbf{"_id": "x", "text": "t"}',
    "a literal newline": b'{"_id": "x", "text": "a" \n',
}
BAD_RECORDS = {
    "no id": {"text": "t"},
    "no text": {"_id": "x"},
    "empty object": {},
    "null id": {"_id": None, "text": "t"},
    "empty id": {"_id": "", "text": "t"},
    "blank id": {"_id": " ", "text": "t"},
    "true id": {"_id": True, "text": "t"},
    "float id": {"_id": 1.5, "text": "t"},
    "list id": {"_id": ["x"], "text": "t"},
    "object id": {"_id": {"x": 1}, "text": "t"},
    "number text": {"_id": "x", "text": 5},
    "list text": {"_id": "x", "text": ["t"]},
    "number title": {"_id": "x", "title": 5, "text": "t"},
    "list title": {"_id": "x", "title": ["T"], "text": "t"},
    "duplicate id": {"_id": "a", "text": "t"},
    "NUL text": {"_id": "x", "text": "a\0b"},
    "NUL id": {"_id": "x\0", "text": "t"},
    "line break in the id": {"_id": "x\ny", "text": "t"},
    "line separator in the id": {"_id": "x\u2028y", "text": "t"},
    "tab in the id": {"_id": "x\ty", "text": "t"},
    "NUL title": {"_id": "x", "title": "\0", "text": "t"},
    "NUL metadata": {"_id": "x", "text": "t", "m": {"k": ["\0"]}},
    "surrogate text": {"_id": "x", "text": "a\ud800b"},
    "surrogate id": {"_id": "\udfff", "text": "t"},
    "surrogate title": {"_id": "x", "title": "\ud800", "text": "t"},
    "surrogate metadata": {"_id": "x", "text": "t", "m": "\ud800"},
    "surrogate key": {"_id": "x", "text": "t", "\ud800": 1},
    "twice in metadata": {"_id": "x", "text": "t", "m": 1, "metadata": {"m": 2}},
}
BAD_OBJECTS = {
    "not a record": 5,
    "a string": "x",
    "a list": [1],
    "bytes text": {"_id": "x", "text": b"\xff"},
    "bytes id": {"_id": b"\xff\x00\xff" * 9 + b"\n", "text": b"t", "title": b"\xff"},
    "complex": {"_id": "x", "text": "t", "m": 1j},
    "infinity": {"_id": "x", "text": "t", "m": float("inf")},
    "months": {"_id": "x", "text": "t", "m": np.timedelta64(1, "M")},
    "NaN id": {"_id": float("nan"), "text": "t"},
    "id in a document": Document("x\n", "t"),
    "key": {"_id": "x", "text": "t", "m": {1: 2}},
    "falsy key": {"_id": "x", "text": "t", "m": {0: 2}},
    "numpy bool id": {"_id": np.bool_(True), "text": "t"},
    "surrogate in a document": Document("x", "t", metadata={"m": "\ud800"}),
    "NUL in a document": Document("x", "t", metadata={"m": ["\0"]}),
    "metadata of a document": Document("x", "t", metadata={"m": object()}),
    "duplicate document": Document("a", "t"),
}
BAD_ROWS = {  # cells of _id, title, text as they stand in the file
    "too few": b"x,T",
    "one": b"x",
    "too many": b"x,T,t,more",
    "empty id": b",T,t",
    "blank row": b",,",
    "duplicate id": b"a,T,t",
    "NUL": b"x,T,a\0b",
    "latin-1": b"x,T,caf\xe9",
    "encoded surrogate": b"x,T,\xed\xa0\x80",
    "cut character": b"x,T,\xe2\x82",
}
BAD_CSV = {
    "behind a quote": b'x,"T"T,t',
    "lone return": b"x,T\r,t",
    "latin-1 over two lines": b'x,"T\ncaf\xe9",t',
    "too many over two lines": b'x,"T\nT",t,t',
}


def table_cases():
    for name, bad in BAD_JSON.items():
        yield "jsonl", f"json: {name}", bad
    for name, record in BAD_RECORDS.items():
        for kind in ("jsonl", "beir", "gz"):
            yield kind, name, json.dumps(record).encode()
        yield "iterable", name, record
    for name, record in BAD_OBJECTS.items():
        yield "iterable", name, record
    for name, row in BAD_ROWS.items():
        yield "csv", name, row
        yield "tsv", name, row.replace(b",", b"\t")
        yield "tsv.gz", name, row.replace(b",", b"\t")
    for name, row in BAD_CSV.items():
        yield "csv", name, row


CASES = list(table_cases())


def make(kind, bad, folder):
    """The source with the bad record as its second, the file, and the line of the bad record."""
    if kind == "iterable":
        return [GOOD[0], bad, GOOD[1]], "<iterable>", 2
    if kind in {"csv", "tsv", "tsv.gz"}:
        rows = [b"_id,title,text", b"a,A,one", bad, b"b,B,two"]
        if kind != "csv":
            rows = [row.replace(b",", b"\t") if row is not bad else row for row in rows]
        path = write(folder / f"rows.{kind}", b"\r\n".join(rows) + b"\r\n")
        return path, path, 3
    if kind == "beir":
        path = write(folder / "corpus.jsonl", jsonl(GOOD[0], bad, GOOD[1]))
        return folder, path, 2
    path = write(folder / ("docs.jsonl.gz" if kind == "gz" else "docs.jsonl"), jsonl(GOOD[0], b"", bad, GOOD[1]))
    return path, path, 3


def test_there_are_enough_cases():
    assert len(CASES) >= 100


@pytest.mark.parametrize(("kind", "name", "bad"), CASES, ids=[f"{kind}-{name}" for kind, name, _ in CASES])
def test_bad_record(kind, name, bad, tmp_path):
    source, path, line = make(kind, bad, tmp_path)
    documents = load_documents(source)
    assert next(documents).id == "a"
    with pytest.raises(DataError) as caught:
        list(documents)
    line = line + 1 if name == "latin-1 over two lines" else line
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert (caught.value.path, caught.value.line) == (path, line)
    assert len(caught.value.reason) > 5

    errors = []
    assert ids(source, on_bad=errors.append) == ["a", "b"]
    assert str(errors[0]) == str(caught.value)
    assert len(errors) == (2 if name == "a literal newline" and bad.count(b"\n") > 1 else 1)


def test_messages_help(tmp_path):
    def message(*lines):
        with pytest.raises(DataError) as caught:
            list(load_documents(write(tmp_path / "x.jsonl", jsonl(*lines))))
        return str(caught.value).removeprefix(f"{tmp_path / 'x.jsonl'}")

    there_are = "there are: 'id', 'url'; rename a field, or say which it is with text_field"
    assert message({"id": "x", "url": "u"}) == f":1: no field 'text' or 'contents' or 'body'; {there_are}"
    assert message('{"_id": "x", "text": "café"}'.encode("latin-1")).startswith(
        ":1: not UTF-8: byte 26 of the line is 0xe9; "
    )
    assert message(GOOD[0], GOOD[0]) == ":2: another document already has the id 'a'"
    assert message({"id": "x", "text": "\ud800"}).startswith(":1: document 'x': field 'text' has a ")
    assert message({"id": "x", "text": "t", "m": "\ud800"}) == ":1: field 'm' has half of a surrogate pair (U+D800)"
    assert message(b'{"id" 1}') == ":1: not JSON: Expecting ':' delimiter at column 7"
    assert message({"id": "x", "text": "t", "m": 1, "metadata": {"m": 1}}).endswith("in the record and in its metadata")


# ---- Files that are bad as a whole raise whatever on_bad says


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("empty.jsonl", b""),
        ("blank.jsonl", b"\n \n\n"),
        ("bom.jsonl", b"\xef\xbb\xbf"),
        ("allbad.jsonl", b"x\ny\n"),
        ("empty.jsonl.gz", b""),
        ("empty.csv", b""),
        ("header.csv", b"_id,text\n"),
        ("allbad.csv", b"_id,text\nx\n"),
        ("empty.tsv", b""),
        ("header.tsv", b"_id\ttext\n"),
        ("noid.csv", b"name,text\nx,t\n"),
        ("notext.csv", b"_id,name\nx,t\n"),
        ("notext.tsv", b"_id\tname\nx\tt\n"),
        ("twice.csv", b"_id,text,_id\nx,t,y\n"),
        ("twice.tsv", b"_id\ttext\ttext\nx\tt\ty\n"),
        ("latin1.csv", b"_id,text,caf\xe9\nx,t,y\n"),
        ("latin1.tsv", b"_id\ttext\tcaf\xe9\nx\tt\ty\n"),
        ("badheader.csv", b'_id,"text"x\nx,t\n'),
        ("openquote.csv", b'_id,text\nx,"t\ny,t\nz,t\n'),
        ("openquote2.csv", b'_id,text\nx,"t\ny,"t"\nz,t\n'),
        ("notgzip.jsonl.gz", None),
        ("cut.jsonl.gz", None),
        ("crc.jsonl.gz", None),
        ("empty.parquet", b""),
        ("garbage.parquet", b"PAR1" + b"\0" * 100 + b"PAR1"),
        ("cut.parquet", None),
    ],
)
def test_bad_file_always_raises(name, data, tmp_path):
    path = tmp_path / name
    zipped = gzip.compress(jsonl(*({"_id": str(i), "text": f"text {i * i}"} for i in range(9999))))
    if name == "cut.parquet":
        parquet_file(path, GOOD)
        path.write_bytes(path.read_bytes()[:-20])
    elif data is None:
        path.write_bytes(
            {"notgzip": b"x" * 99, "cut": zipped[:-5000], "crc": zipped[:-6] + b"xxxxxx"}[name.split(".")[0]]
        )
    elif name == "empty.jsonl.gz":
        write(path, data)
    else:
        path.write_bytes(data)
    for on_bad in (None, lambda error: None):
        with pytest.raises(DataError) as caught:
            list(load_documents(path, on_bad=on_bad))
        assert str(caught.value).startswith(f"{path}:")


@pytest.mark.parametrize(
    "name", ["none", "none.jsonl", "none.jsonl.gz", "none.csv", "none.tsv", "none.parquet", "none/x.csv"]
)
def test_missing(name, tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        load_documents(tmp_path / name, on_bad=lambda error: None)


@pytest.mark.parametrize("format", ["jsonl", "csv", "tsv", "parquet", "beir"])
def test_folder_for_a_file(format, tmp_path):
    with pytest.raises(DataError, match=r"cannot be read|not a parquet file|no corpus.jsonl"):
        list(load_documents(tmp_path, format=format, on_bad=lambda error: None))


@pytest.mark.parametrize("format", ["folder", "beir"])
def test_file_for_a_folder(format, tmp_path):
    with pytest.raises(DataError, match=r"not a folder|not a BEIR folder"):
        list(load_documents(write(tmp_path / "x.jsonl", jsonl(*GOOD)), format=format))


def test_bad_arguments(tmp_path):
    path = write(tmp_path / "x.jsonl", jsonl(*GOOD))
    with pytest.raises(InputError, match="unknown format 'xml'; there are: beir, jsonl"):
        load_documents(path, format="xml")
    with pytest.raises(InputError, match=r"cannot guess the format of 'x.xml'; give the format \(--format\)"):
        load_documents(write(tmp_path / "x.xml", b"{}"))
    with pytest.raises(InputError, match="unknown encoding 'rot13'"):
        load_documents(path, encoding="rot13")
    with pytest.raises(InputError, match="delimiter must be one character"):
        load_documents(path, delimiter=";;")
    with pytest.raises(InputError, match="columns must be a list"):
        load_documents(path, columns="id,text")
    with pytest.raises(InputError, match="csv_types must be"):
        load_documents(path, csv_types="int")
    with pytest.raises(InputError, match="give one of them"):
        load_documents(path, strict=True, on_bad=print)
    with pytest.raises(InputError, match="no fields"):
        load_documents(tmp_path, format="folder", id_field="x")
    for source in (GOOD[0], Document("a", "t"), b"docs.jsonl", 5, None):
        with pytest.raises(InputError, match="source must be"):
            load_documents(source)
    with pytest.raises(InputError, match="is for paths"):
        load_documents(GOOD, format="jsonl")


@pytest.mark.parametrize("option", ["id_field", "title_field", "text_field"])
def test_field_that_is_not_there(option, tmp_path):
    table = write(tmp_path / "x.csv", b"_id,text\nx,t\n")
    lines = write(tmp_path / "x.jsonl", jsonl({"_id": "x", "text": "t"}))
    parquet_file(tmp_path / "x.parquet", [{"_id": "x", "text": "t"}])
    for source in (table, lines, tmp_path / "x.parquet", [{"_id": "x", "text": "t"}]):
        with pytest.raises(DataError, match="no field 'nope'; there are: '_id', 'text'"):
            list(load_documents(source, **{option: "nope"}))


# ---- Good files


@pytest.mark.parametrize("id_name", ["_id", "id", "docno", "docid"])
@pytest.mark.parametrize("text_name", ["text", "contents", "body"])
def test_default_fields(id_name, text_name):
    (document,) = load_documents([{"lang": "en", id_name: 3, text_name: "t"}])
    assert document == Document("3", "t", metadata={"lang": "en"})


def test_first_default_field_wins_and_others_are_metadata():
    (document,) = load_documents([{"id": 1, "_id": "x", "body": "b", "text": "t", "title": None}])
    assert document == Document("x", "t", metadata={"id": 1, "body": "b"})


def test_explicit_fields(tmp_path):
    path = write(tmp_path / "x.csv", b'url,_id,name,text,"long, text"\nu1,7,N,short,"a ""long""\ntext"\n')
    (document,) = load_documents(path, id_field="url", title_field="name", text_field="long, text")
    assert document == Document("u1", 'a "long"\ntext', "N", {"_id": 7, "text": "short"})


def test_quotes_of_tsv_are_characters(tmp_path):
    path = write(tmp_path / "x.tsv", b'\xef\xbb\xbfid\ttext\r\n\r\n1\t"open\n2\ta "b"\n')
    assert [d.text for d in load_documents(path)] == ['"open', 'a "b"']


def test_metadata_is_merged_and_plain():
    record = {
        "_id": np.int64(2),
        "text": "t",
        "metadata": {"n": np.float32(0.5), "d": date(2024, 1, 2)},
        "l": (1, None),
    }
    (document,) = load_documents([record])
    assert document == Document("2", "t", metadata={"n": 0.5, "d": "2024-01-02", "l": [1, None]})
    assert json.loads(json.dumps(document.metadata)) == document.metadata
    assert record["metadata"].keys() == {"n", "d"}


def test_documents_pass_unchanged():
    documents = [Document("a", "t", "T", {"m": {"k": [1, 2.5, True, None, "s"]}}), Document("b", "t")]
    assert list(load_documents(iter(documents))) == documents
    assert list(load_documents([])) == []


@pytest.mark.parametrize(
    "name",
    ["docs.jsonl", "docs.ndjson", "docs.jsonl.gz", "DOCS.JSONL", "folder/corpus.jsonl", "folder/corpus.jsonl.gz"],
)
def test_json_lines(name, tmp_path):
    path = write(
        tmp_path / name, b"\xef\xbb\xbf" + jsonl({**GOOD[0], "metadata": {}}, b"  ", b"\r", {**GOOD[1], "n": 1})[:-1]
    )
    documents = list(load_documents(path.parent if "/" in name else str(path)))
    assert documents == [Document("a", "one", "A"), Document("b", "two", "B", {"n": 1})]


plain = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
named = st.text(
    alphabet=st.characters(exclude_characters="\u2028\u2029", exclude_categories=["Cs", "Cc"]), min_size=1
).filter(str.strip)
documents_made = st.lists(
    st.builds(
        Document,
        named,
        plain | st.just(""),
        plain | st.just(""),
        st.dictionaries(plain, st.integers() | plain, max_size=2),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda d: d.id,
).map(
    lambda documents: (
        [d for d in documents if not d.metadata.keys() & {"_id", "title", "text", "metadata"}] or [Document("x", "t")]
    )
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(documents_made, st.booleans())
def test_json_lines_round_trip(tmp_path, documents, ascii_only):
    lines = (
        json.dumps({"_id": d.id, "title": d.title, "text": d.text, **d.metadata}, ensure_ascii=ascii_only)
        for d in documents
    )
    path = write(tmp_path / "x.jsonl", "\n".join(lines).encode())
    assert list(load_documents(path)) == documents


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(documents_made)
def test_csv_and_parquet_round_trip(tmp_path, documents):
    documents = [Document(d.id, d.text, d.title, {"n": len(d.metadata)}) for d in documents]
    rows = [{"_id": d.id, "title": d.title, "text": d.text, **d.metadata} for d in documents]
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, rows[0], quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    assert list(load_documents(write(tmp_path / "x.csv", file.getvalue().encode()))) == documents
    parquet_file(tmp_path / "x.parquet", rows)
    assert list(load_documents(tmp_path / "x.parquet")) == documents


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(
    st.binary(max_size=200) | st.text(alphabet='",\n\r\ta{}:_id1\\\0é').map(str.encode),
    st.sampled_from(["csv", "tsv", "jsonl", "jsonl.gz", "parquet"]),
)
def test_no_bytes_make_another_error(tmp_path, data, suffix):
    path = tmp_path / f"x.{suffix}"
    for content in (data, b"_id,text\n1,a\n" + data, b"_id\ttext\n1\ta\n" + data):
        path.write_bytes(content)
        for on_bad in (None, [].append):
            try:
                for document in load_documents(path, on_bad=on_bad):
                    document.text.encode()
            except DataError as error:
                assert error.path == path


# ---- Parquet


def parquet_file(path, rows, **options):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows) if isinstance(rows, list) else rows, path, **options)


def test_parquet_bad_records(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    offsets = pyarrow.py_buffer(np.array([0, 1, 5, 6], np.int32))
    broken = pyarrow.StringArray.from_buffers(3, offsets, pyarrow.py_buffer(b"acaf\xe9c"))
    table = pyarrow.table({"_id": ["1", "2", "3"], "text": broken})
    parquet_file(tmp_path / "x.parquet", table)
    errors = []
    assert ids(tmp_path / "x.parquet", on_bad=errors.append) == ["1", "3"]
    assert str(errors[0]).startswith(f"{tmp_path / 'x.parquet'}:2: cannot be read: ")

    rows = [{"_id": str(i), "text": "\0" if i == 700 else "t", "when": date(2024, 1, 1)} for i in range(1000)]
    parquet_file(tmp_path / "y.parquet", rows)
    errors.clear()
    assert len(ids(tmp_path / "y.parquet", on_bad=errors.append)) == 999
    assert [error.line for error in errors] == [701]
    with pytest.raises(DataError, match=r"y.parquet:701: .*'text' has a NUL"):
        list(load_documents(tmp_path / "y.parquet"))


def test_parquet_damaged_in_the_middle(tmp_path):
    path = tmp_path / "x.parquet"
    rows = [{"_id": str(i), "text": f"{i * 7919 % 1000:x} " * 20} for i in range(3000)]
    parquet_file(path, rows, row_group_size=500)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = b"\xff" * 3000
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        list(load_documents(path, on_bad=lambda error: None))
    assert caught.value.path == path and caught.value.line > 1


def test_parquet_integers_and_nested(tmp_path):
    parquet_file(tmp_path / "x.parquet", [{"docno": 5, "body": "b", "title": None, "metadata": {"tags": ["x", "y"]}}])
    assert list(load_documents(tmp_path / "x.parquet")) == [Document("5", "b", metadata={"tags": ["x", "y"]})]


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("x.parquet", "pyarrow"),
        ("x.html", "lxml"),
        ("x.pdf", "pypdf"),
        ("x.docx", "docx"),
        ("x.jsonl.zst", "zstandard"),
    ],
)
def test_missing_extra(name, module, tmp_path, monkeypatch):
    write(tmp_path / name, b"PAR1")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"sightline-search\[readers\]"):
        list(load_documents(tmp_path / name, on_bad=lambda error: None))


def test_a_folder_is_read_without_the_files_that_need_a_missing_extra(tmp_path, monkeypatch):
    write(tmp_path / "a.txt", b"text")
    write(tmp_path / "b.html", b"<p>text")
    monkeypatch.setitem(sys.modules, "lxml", None)
    summary = LoadSummary()
    assert ids(tmp_path, summary=summary) == ["a.txt"]
    assert str(summary) == "left out 1 file: 1 .html (install the extra readers)"
    with pytest.raises(MissingExtraError):
        ids(tmp_path, strict=True)


# ---- Folders


def test_folder(tmp_path, caplog):
    pytest.importorskip("lxml")
    page = """<!doctype html><html><head><title> The
      Title </title><style>p {}</style><script>var a = "<p>x</p>";</script></head><body><!-- no --><h1>Head</h1>
      <p>One <b>bold</b>
         word.<p>Two<br>lines.</p><pre>a\n    b</pre><script>x</script></body></html>"""
    write(tmp_path / "b.html", page.encode())
    write(tmp_path / "notitle.htm", b"<p>Only")
    write(tmp_path / "a" / "z.md", b"\xef\xbb\xbf```\n# not this\n```\n\n## A *title* ##\n\nBody.\n")
    write(tmp_path / "a" / "under.markdown", b"Words\n=====\nBody.")
    write(tmp_path / "a" / "none.md", b"---\ntitle: x\n---\n#hashtag\n")
    write(tmp_path / "c.TXT", "# naïve\n".encode())
    write(tmp_path / "r.rst", b"Text")
    write(tmp_path / "a.pdf", b"%PDF")
    write(tmp_path / "a" / "Makefile", b"all:")
    with caplog.at_level(logging.WARNING, logger=readers.__name__):
        documents = {document.id: document for document in load_documents(tmp_path)}
    assert list(documents) == ["b.html", "c.TXT", "notitle.htm", "r.rst", "a/none.md", "a/under.markdown", "a/z.md"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: left out 2 files: 1 without a suffix (not a format that is read), "
        "1 not a PDF file that can be read (a.pdf)"
    ]
    titles = {name: document.title for name, document in documents.items()}
    assert titles == {
        "b.html": "The Title",
        "c.TXT": "c.TXT",
        "notitle.htm": "notitle.htm",
        "r.rst": "r.rst",
        "a/none.md": "x",
        "a/under.markdown": "Words",
        "a/z.md": "A *title*",
    }
    assert [line.strip() for line in documents["b.html"].text.split("\n\n")] == [
        "Head", "One bold word.", "Two\nlines.", "a\n    b"
    ]  # fmt: skip
    assert documents["c.TXT"].text == "# naïve\n"
    assert documents["a/none.md"].text == "#hashtag\n"
    today = datetime.fromtimestamp((tmp_path / "c.TXT").stat().st_mtime, UTC).date().isoformat()
    assert documents["c.TXT"].metadata == {"path": "c.TXT", "suffix": ".txt", "modified": today}


@pytest.mark.parametrize(
    ("name", "data", "where", "kind"),
    [
        ("x.txt", b"ok\nok\ncaf\xe9", ":3", "not UTF-8"),
        ("x.txt", b"a\0b", "", "not text"),
        ("x.html", b"<p>caf\xe9", ":1", "not UTF-8"),
        ("x.ipynb", b"{}", "", "not a notebook"),
        ("x.ipynb", b"{", "", "not JSON"),
        ("x.pdf", b"%PDF-1.7\n", "", "not a PDF file that can be read"),
        ("x.docx", b"PK", "", "not a Word file that can be read"),
        ("x.txt.gz", None, "", "cannot be read"),
    ],
)
def test_a_bad_file_of_a_folder_is_left_out_and_named(name, data, where, kind, tmp_path):
    for module in ("lxml", "pypdf", "docx"):
        pytest.importorskip(module)
    write(tmp_path / "good.txt", b"good")
    path = write(tmp_path / "sub" / name, data or b"text")
    if data is None:
        path.write_bytes(b"no gzip")
    with pytest.raises(DataError) as caught:
        list(load_documents(tmp_path, strict=True))
    assert str(caught.value).startswith(f"{path}{where}: {kind}")
    errors, summary = [], LoadSummary()
    assert ids(tmp_path, on_bad=errors.append) == ids(tmp_path, summary=summary) == ["good.txt"]
    assert list(map(str, errors)) == [str(caught.value)]
    assert str(summary) == f"left out 1 file: 1 {kind} (sub/{name})"
    assert (summary.unit, summary.done, summary.total) == ("files", 2, 2)


@pytest.mark.parametrize(
    ("name", "data"),
    [("x.txt", b""), ("x.md", b" \n"), ("x.html", b"<script>x</script>"), ("x.ipynb", b'{"cells": []}')],
)
def test_an_empty_file_of_a_folder_is_left_out_even_if_strict(name, data, tmp_path):
    pytest.importorskip("lxml")
    write(tmp_path / "good.txt", b"good")
    write(tmp_path / name, data)
    summary = LoadSummary()
    assert ids(tmp_path, strict=True, summary=summary) == ["good.txt"]
    assert str(summary) == f"left out 1 file: 1 empty ({name})"


def test_folder_without_documents(tmp_path):
    write(tmp_path / "a.png", b"x")
    with pytest.raises(DataError, match=r"no usable document in it; left out 1 file: 1 \.png \(not"):
        list(load_documents(tmp_path, on_bad=lambda error: None))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)
@given(st.text(alphabet='<>!/[]ap-&;"= x\n').map(lambda markup: "<p>word</p>" + markup))
@example("<p>word</p><![;")  # which the parser rejects
def test_no_markup_makes_another_error(tmp_path, markup):
    pytest.importorskip("lxml")
    write(tmp_path / "x.html", markup.encode())
    try:
        list(load_documents(tmp_path))
    except DataError as error:
        assert error.path == tmp_path / "x.html"


def test_deep_markup(tmp_path):
    pytest.importorskip("lxml")
    write(tmp_path / "x.html", b"<div>" * 3000 + b"deep")
    assert [document.text for document in load_documents(tmp_path)] == ["deep"]


def test_name_that_is_not_utf8(tmp_path):
    write(tmp_path / "good.txt", b"good")
    try:
        write(tmp_path / "caf\udce9.txt", b"text")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    errors = []
    assert ids(tmp_path, on_bad=errors.append) == ["good.txt"]
    assert "not UTF-8" in errors[0].reason


# ---- Streaming


@pytest.mark.parametrize("suffix", ["jsonl", "tsv", "csv", "parquet"])
def test_memory_stays_small(suffix, tmp_path):
    path, text = tmp_path / f"x.{suffix}", "word " * 2000
    if suffix == "parquet":
        parquet_file(path, [{"_id": str(i), "text": text} for i in range(5000)])
    else:
        with path.open("w") as file:
            file.write({"jsonl": "", "tsv": "_id\ttext\n", "csv": "_id,text\n"}[suffix])
            line = {"jsonl": '{"_id": "%d", "text": "%s"}\n', "tsv": "%d\t%s\n", "csv": "%d,%s\n"}[suffix]
            file.writelines(line % (i, text) for i in range(5000))
        assert path.stat().st_size > 50_000_000
    tracemalloc.start()
    try:
        assert sum(1 for _ in load_documents(path)) == 5000
        assert tracemalloc.get_traced_memory()[1] < 6_000_000
    finally:
        tracemalloc.stop()


def test_iterables_are_not_read_ahead():
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield {"_id": taken, "text": "t"}

    documents = load_documents(endless())
    assert taken == 0
    assert [next(documents).id for _ in range(5)] == list("12345")
    assert taken == 5


def test_errors_of_the_source_and_of_on_bad_pass():
    def failing():
        yield GOOD[0]
        raise OSError("the network is down")

    with pytest.raises(OSError, match="network"):
        list(load_documents(failing(), on_bad=lambda error: None))

    def stop(error):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(load_documents([{}], on_bad=stop))
