import gzip
import io
import json
import logging
import os
import socket
import zipfile

import pytest

from sightline.errors import DataError
from sightline.retrieval.sources import LoadSummary, load_documents
from sightline.sentences import sentence_spans


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def only_document(path, text):
    (document,) = load_documents(write(path, text))
    return document


def folder(path, **options):
    summary = LoadSummary()
    return [document.id for document in load_documents(path, summary=summary, **options)], summary


# ---- What is left out


def test_what_is_left_out_is_told_by_kind_and_count(tmp_path, caplog):
    for name in ("a.txt", "b.png", "c.png", "d.py", ".hidden.txt", ".git/x.txt", "node_modules/x.md", "venv/x.txt"):
        write(tmp_path / name, "text")
    write(tmp_path / "venv" / "pyvenv.cfg", "")
    write(tmp_path / "empty.txt", "")
    write(tmp_path / "latin.txt", b"caf\xe9")
    for name in ("two\nlines.txt", "two\ttabs.txt"):
        write(tmp_path / name, "text")
    ids, summary = folder(tmp_path)
    assert ids == ["a.txt"]
    assert summary.left_out == {
        ".png (not a format that is read)": 2,
        ".py (not a format that is read)": 1,
        "hidden": 2,
        "installed code": 2,
        "empty": 1,
        "not UTF-8": 1,
        "the name has a line break or a tab, which an id cannot have; rename the file": 2,
    }
    sentence = str(summary)
    assert sentence.startswith("left out 8 files and 3 folders: 2 ")
    assert "1 not UTF-8 (latin.txt)" in sentence and "2 hidden (.git/, .hidden.txt)" in sentence
    with caplog.at_level(logging.WARNING):
        list(load_documents(tmp_path))
    assert caplog.messages == [f"{tmp_path}: {sentence}"]
    with pytest.raises(DataError, match=r"latin.txt:1: not UTF-8"):
        folder(tmp_path, strict=True)
    assert folder(tmp_path, encoding="cp1252")[0] == ["a.txt", "latin.txt"]


def test_only_the_first_names_of_a_kind_are_told():
    summary = LoadSummary()
    for number in range(1000):
        summary.leave_out("empty", f"{number}.txt")
    assert str(summary) == "left out 1,000 files: 1000 empty (0.txt, 1.txt, 2.txt, ...)"
    assert str(LoadSummary()) == ""


def test_nothing_that_is_no_regular_file_hangs_it(tmp_path):
    write(tmp_path / "a.txt", "text")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    (tmp_path / "link.md").symlink_to("pipe.txt")
    (tmp_path / "self.txt").symlink_to("self.txt")
    with (tmp_path / "sparse.txt").open("wb") as file:
        file.truncate(3 << 30)
    with gzip.open(tmp_path / "bomb.txt.gz", "wb", compresslevel=1) as file:
        for _ in range(80):
            file.write(bytes(1 << 20))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.txt"))
        for follow in (False, True):
            ids, summary = folder(tmp_path, follow_links=follow)
            assert ids == ["a.txt"]
            assert summary.left_out.total() == 7
            assert summary.left_out["not a regular file"] == 3 + follow
            assert summary.left_out["larger than 64 MiB"] == 2
    with pytest.raises(DataError, match="not a regular file"):
        folder(tmp_path / "pipe.txt")


def test_links_out_of_the_folder_are_followed_only_if_asked(tmp_path):
    write(tmp_path / "outside" / "secret.txt", "secret")
    write(tmp_path / "in" / "a.txt", "text")
    (tmp_path / "in" / "file.txt").symlink_to(tmp_path / "outside" / "secret.txt")
    (tmp_path / "in" / "inner.txt").symlink_to("a.txt")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "outside")
    (tmp_path / "in" / "loop").symlink_to("..")
    (tmp_path / "root").symlink_to("in")
    for root in (tmp_path / "in", tmp_path / "root"):
        ids, summary = folder(root)
        assert ids == ["a.txt", "inner.txt"]
        assert "--follow-links" in str(summary)
    ids, summary = folder(tmp_path / "in", follow_links=True)
    assert {"a.txt", "file.txt", "inner.txt", "linked/secret.txt"} <= set(ids) and len(ids) < 10


# ---- Kinds of files


@pytest.mark.parametrize(
    ("text", "title", "metadata", "body"),
    [
        ("---\ntitle: My note\nlang: en\nyear: 2024\n---\n# Heading\n", "My note", {"lang": "en", "year": 2024}, "# H"),
        ("---\r\ntitle: Win\r\n---\r\nbody", "Win", {}, "body"),
        (
            "---\ndate: 2024-05-01\ntags: [a, b]\nnone:\n...\n# H\n",
            "H",
            {"date": "2024-05-01", "tags": ["a", "b"]},
            "#",
        ),
        ('+++\ntitle = "T"\n[extra]\nn = 1\n+++\nbody', "T", {"extra": {"n": 1}}, "body"),
        ("---\n2024: x\n---\nbody", "n.md", {"2024": "x"}, "body"),
        ("---\npath: /guide\n---\nbody", "n.md", {"path": "/guide"}, "body"),
        ("---\n---\nbody", "n.md", {}, "body"),
        ("---\nA rule, then text.\n\n---\nmore", "n.md", {}, "---\nA rule"),
        ("---\nno end", "n.md", {}, "---\nno end"),
        ("text\n---\na: b\n---\n", "n.md", {}, "text"),
    ],
)
def test_front_matter_is_title_and_metadata(text, title, metadata, body, tmp_path):
    document = only_document(tmp_path / "n.md", text)
    own = {"path": "n.md", "suffix": ".md", "modified": document.metadata["modified"]}
    assert (document.title, document.metadata) == (title, own | metadata)
    assert document.text.startswith(body)


@pytest.mark.parametrize(
    "fields",
    [
        "a: &a [x, x]\nb: [*a, *a]\n",
        "title: [a\n",
        "- a\n- list\n",
        "title: !!python/object/apply:os.system [echo]\n",
        "[" * 5000 + "\n",
        "n: .inf\n",
        "long: " + "x" * 70_000 + "\n",
    ],
)
def test_front_matter_that_cannot_be_used_stays_in_the_text(fields, tmp_path, caplog):
    text = f"---\n{fields}---\n# Heading\n"
    document = only_document(tmp_path / "n.md", text)
    assert (document.text, document.title) == (text, "Heading")
    assert "front matter" in caplog.text and "stays in the text" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "title"),
    [
        ("a.rst", ".. note\n\n=====\nMain\n=====\n\ntext", "Main"),
        ("b.rst", "Title\n-----\ntext", "Title"),
        ("c.org", "#+TITLE: Org\n* Head", "Org"),
        ("d.adoc", "= Doc\ntext", "Doc"),
        ("e.tex", "\\title{A paper}\ntext", "A paper"),
        ("f.mdx", "import x from 'x'\n\n# MDX", "MDX"),
        ("g.txt", "# no heading", "g.txt"),
        ("h.md.gz", gzip.compress(b"# Packed", mtime=0), "Packed"),
    ],
)
def test_titles_of_text_files(name, text, title, tmp_path):
    document = only_document(tmp_path / name, text)
    assert (document.id, document.title) == (name, title)


def test_notebooks_are_read_without_outputs(tmp_path):
    cells = [
        {"cell_type": "code", "source": "import this", "outputs": [{"text": "secret"}]},
        {"cell_type": "markdown", "source": ["# Note\n", "book"]},
    ]
    document = only_document(tmp_path / "n.ipynb", json.dumps({"cells": cells}))
    assert (document.title, document.text) == ("Note", "import this\n\n# Note\nbook")
    assert (
        only_document(tmp_path / "old.ipynb", json.dumps({"worksheets": [{"cells": [{"input": "x = 1"}]}]})).text
        == "x = 1"
    )


def pdf(text, title=""):
    """A PDF file of one page, by hand."""
    drawn = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(drawn), drawn),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        b"<</Title(%s)>>" % title.encode(),
    ]
    data, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj%s endobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"xref\n0 7\n0000000000 65535 f \n%strailer<</Size 7/Root 1 0 R/Info 6 0 R>>\nstartxref\n%d\n%%%%EOF"
    return data + end % (table, len(data))


def test_pdf(tmp_path):
    pypdf = pytest.importorskip("pypdf")
    document = only_document(tmp_path / "a.pdf", pdf("Cats purr.", "On\0cats"))
    assert (document.title, document.text) == ("On cats", "Cats purr.")
    assert only_document(tmp_path / "b.pdf", pdf("Cats purr.")).title == "b.pdf"
    with pytest.raises(DataError, match="no text in its pages"):
        only_document(tmp_path / "scan.pdf", pdf(""))
    writer, file = pypdf.PdfWriter(io.BytesIO(pdf("Cats purr."))), io.BytesIO()
    writer.encrypt("password")
    writer.write(file)
    with pytest.raises(DataError, match="encrypted"):
        only_document(tmp_path / "locked.pdf", file.getvalue())


def test_word_files(tmp_path):
    docx = pytest.importorskip("docx")
    made = docx.Document()
    made.add_heading("Prices", 1)
    made.add_paragraph("All in euros.")
    table = made.add_table(2, 2)
    for cell, text in zip(table._cells, ["Plan", "Price", "Pro", "29"], strict=True):
        cell.text = text
    made.add_paragraph("End.")
    made.save(tmp_path / "a.docx")
    (document,) = load_documents(tmp_path / "a.docx")
    assert (document.title, document.text) == ("Prices", "Prices\n\nAll in euros.\n\nPlan | Price\n\nPro | 29\n\nEnd.")
    with zipfile.ZipFile(tmp_path / "bomb.docx", "w", zipfile.ZIP_DEFLATED) as file:
        for number in range(5):
            file.writestr(f"{number}", bytes(60 << 20))
    with pytest.raises(DataError, match="larger than 256 MiB"):
        list(load_documents(tmp_path / "bomb.docx"))


# ---- HTML


@pytest.mark.parametrize(
    ("markup", "title", "text"),
    [
        ("<body><svg><title>Close</title></svg><h1>Re<b>fu</b>nds</h1><p>x", "Refunds", "Refunds\n\nx"),
        ("<svg><symbol><title>In</title><text>no</text></symbol><text>Label</text></svg>", "x.html", "Label"),
        ("<template><title>T</title>x</template><noscript><title>N</title></noscript><p>y", "x.html", "y"),
        ("<title>A &amp; B</title><title>C</title><p>y", "A & B", "y"),
        ("<title>only</title>", "only", ""),
        ('<script type="application/ld+json">{"a": "<p>no</p>"}</script><p>y', "x.html", "y"),
        ("<p>a&nbsp;b &eacute;&#233; &lt;i&gt; &unknown;", "x.html", "a b éé <i> &unknown;"),
        ("<p>a<br>b<br/>c<pre>\n  d\n    e</pre>", "x.html", "a\nb\nc\n\n  d\n    e"),
        ("<ul><li>a<li>b</ul><dl><dt>c<dd>d</dl>", "x.html", "a\n\nb\n\nc\n\nd"),
        ("<table><tr><td><h1>Nav</h1><td><p>a<p>b</table>", "Nav", "Nav\n\na\n\nb"),
        ("<table><tr><td>a<table><tr><td>b<td>c</table>d<td>e</table>", "x.html", "a\n\nb | c\n\nd\n\ne"),
        (f"<table><tr><td>a<td>{'long ' * 300}</table>", "x.html", f"a\n\n{('long ' * 300).strip()}"),
    ],
)
def test_html(markup, title, text, tmp_path):
    pytest.importorskip("lxml")
    document = only_document(tmp_path / "x.html", markup)
    assert (document.title, document.text) == (title, text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.html", "<table><tr><th>Plan<th>Price<tr><td>Basic<td><p>9<br>EUR</p><tr><td>Pro<td>29 EUR</table>"),
        ("a.md", "# T\n\n| Plan | Price |\n|:-----|------:|\n| Basic | 9 EUR |\n| Pro | 29 EUR |\n"),
    ],
)
def test_the_row_of_a_table_is_a_sentence(name, text, tmp_path):
    pytest.importorskip("lxml")
    contents = only_document(tmp_path / name, text).text
    units = [contents[start:end] for start, end in sentence_spans(contents)]
    assert [unit for unit in units if "29 EUR" in unit] == [unit for unit in units if "Pro" in unit]
    assert not any("Pro" in unit and "Basic" in unit for unit in units)


@pytest.mark.parametrize(
    "piece",
    ["<b>x", "<ul><li> x", "<p", '<a href="', "<!--", "<div>x", "<table><tr><td>x", "<a>", "<svg><title>", "&", "<br>"],
)
def test_markup_is_read_in_linear_time(piece, tmp_path):
    etree = pytest.importorskip("lxml.etree")
    assert etree.LXML_VERSION >= (6,)
    from time import process_time

    from sightline.retrieval.sources.html import parse_html

    started = process_time()
    parse_html(piece * (400_000 // len(piece)), tmp_path)
    assert process_time() - started < 2
