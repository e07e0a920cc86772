"""Decoder states in an index: what was read of each passage comes back as it was, through all changes and kills."""

import shutil

import numpy as np
import pytest

from sightline.documents import Document
from sightline.errors import IndexCorruptError, IndexMismatchError, InputError
from sightline.retrieval import writing
from sightline.retrieval.index import Index

from ..conftest import ToyDecoder


def document(number, version=1):
    return Document(f"d{number}", f"common word{number} version{version}. " + "more " * (number % 4))


@pytest.fixture
def build(build):
    """Build an index that keeps decoder states, unless it is told otherwise."""
    return lambda documents, name="index", **options: build(
        documents, name, **{"decoder_states": ToyDecoder(), **options}
    )


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(writing, "DECODER_PASSAGES", 4)


def check(index, decoder=None):
    """Compare what is kept of every passage with a reading of now."""
    decoder = decoder or ToyDecoder()
    stored = index.passages_of([each.id for each in index.documents()])
    blocks = index.decoder_states(stored)
    assert len(blocks) == len(stored) > 0
    for passage, block in zip(stored, blocks, strict=True):
        form = index.manifest.decoder_states
        [[expected]] = decoder.read_stored([passage.passage.as_document()], form)
        assert block.form == form and block.tokens * form.token_bytes == len(expected)
        assert np.array_equal(block.data, expected)
    return stored


@pytest.mark.parametrize("kind", ["int8", "fp16"])
def test_an_index_gives_back_the_states_of_each_passage(build, kind, small_batches):
    index = build(map(document, range(13)), decoder_form=kind, max_tokens=4)
    assert len(check(index)) > 13
    assert index.manifest.decoder_states.kind == kind
    assert (index.path / f"decoder.{kind}").stat().st_size % index.manifest.decoder_states.token_bytes == 0


def test_states_follow_additions_updates_and_deletions(build, toy, small_batches):
    index = build(map(document, range(9)))
    index.add(map(document, range(9, 14)))
    index.update([document(3, 2), document(20)])
    index.delete(["d1", "d2"])
    assert len(check(index)) == 13
    with Index.open(index.path, encoder=toy) as reader:
        assert len(check(reader)) == 13
        reader.delete(["d5"])  # which needs no decoder
    assert len(check(index)) == 12


def test_an_index_without_a_vector_or_token_state_keeps_decoder_states(build):
    check(build(map(document, range(5)), encoder="none"))
    check(build(map(document, range(5)), "other", token_states="none"))


def test_an_index_without_decoder_states_says_so(build, toy):
    index = build(map(document, range(3)), decoder_states=None)
    assert index.decoder_states(index.passages_of(["d0"])) is None
    assert "decoder_states" not in index.manifest.settings()
    with pytest.raises(IndexMismatchError, match="keeps no decoder states"):
        Index.open(index.path, encoder=toy, decoder_states=ToyDecoder())


def test_what_is_added_must_be_read_by_the_decoder(build, toy):
    index = build(map(document, range(3)))
    with Index.open(index.path, encoder=toy) as other:
        with pytest.raises(InputError, match=r"open it with decoder_states=load_reranker\('hf:toy#words'\)"):
            other.add([document(5)])
        assert len(other) == 3
    with Index.open(index.path, encoder=toy, decoder_states=ToyDecoder(layer=5)) as other:
        other.add([document(5)])  # a decoder with more layers reads what is kept of the first ones
        check(other)


@pytest.mark.parametrize(
    ("decoder", "reason"),
    [
        (ToyDecoder(revision="r2"), "they are of the model 'toy' at revision r2, not of 'toy' at revision r1"),
        (ToyDecoder(fingerprint="other"), "another instruction, block template or max_block_tokens"),
        (ToyDecoder(layer=1), "they end at layer 1, and it reads layer 2"),
        ("hf:toy#words", "no reranker by a decoder"),
    ],
)
def test_another_decoder_is_refused_by_name(build, toy, decoder, reason):
    index = build(map(document, range(3)))
    with pytest.raises(IndexMismatchError, match=reason):
        Index.open(index.path, encoder=toy, decoder_states=decoder)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"decoder_states": "hf:toy#words"}, "takes a reranker by a decoder"),
        ({"decoder_form": "int4"}, "must be one of fp16, int8, not 'int4'"),
        ({"decoder_states": ToyDecoder(fingerprint="")}, "cannot be kept"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_before_anything_is_made(build, tmp_path, options, reason):
    with pytest.raises(InputError, match=reason):
        build(map(document, range(3)), **options)
    assert not (tmp_path / "index").exists()


class Stop(Exception):  # noqa: N818 - not an error
    pass


def cut_off(count):
    for number in range(count):
        yield document(number)
    raise Stop


def test_an_interrupted_build_goes_on_and_equals_one_that_was_not(build, toy, small_batches):
    with pytest.raises(Stop):
        build(cut_off(10))
    decoder = ToyDecoder()
    index = build(map(document, range(14)), decoder_states=decoder)
    assert decoder.passages == 14 - 8  # two batches of four were kept
    whole = build(map(document, range(14)), "whole")
    assert len(check(index)) == 14
    for name in ("decoder.int8", "states.int8"):
        assert (index.path / name).read_bytes() == (whole.path / name).read_bytes()


@pytest.mark.parametrize(
    "other", [{"decoder_form": "fp16"}, {"decoder_states": None}, {"decoder_states": ToyDecoder(layer=1)}]
)
def test_a_build_goes_on_with_its_own_decoder_states_only(build, other, small_batches):
    with pytest.raises(Stop):
        build(cut_off(10))
    with pytest.raises(IndexMismatchError, match="decoder_states: .* there, .* asked for"):
        build(map(document, range(14)), **other)


def test_what_a_killed_writer_appended_is_overwritten(build, monkeypatch, small_batches):
    index = build(map(document, range(6)))

    class Broken(ToyDecoder):
        def read_stored(self, documents, form):
            for number, group in enumerate(super().read_stored(documents, form)):
                if number:
                    raise Stop
                yield group

    index._decoder = Broken()
    with pytest.raises(Stop):
        index.add(map(document, range(6, 12)))
    assert len(index) == 6
    index.verify()
    index._decoder = ToyDecoder()
    index.add([document(30), document(31)])
    index.verify()
    assert len(check(index)) == 8


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:70] + bytes([data[70] ^ 1]) + data[71:]])
def test_damaged_states_are_refused_by_name(build, toy, damage):
    index = build(map(document, range(6)))
    path = index.path / "decoder.int8"
    index.close()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(IndexCorruptError, match=r"decoder\.int8"):
        Index.open(index.path, encoder=toy)


def test_an_index_of_before_there_were_decoder_states_opens_and_recovers(build, toy):
    index = build(map(document, range(6)), decoder_states=None)
    connection = index._files.store.connection
    connection.execute("DROP TABLE decoder_passages")
    index.close()
    with Index.open(index.path, encoder=toy) as again:
        assert len(again) == 6 and again.decoder_states(again.passages_of(["d1"])) is None


def test_a_place_that_was_changed_after_a_kill_is_seen(build, toy):
    index = build(map(document, range(6)))
    index._files.store.connection.execute("UPDATE decoder_passages SET first_token = 1 WHERE row = 3")
    index.close()
    with pytest.raises(IndexCorruptError, match="decoder states of row 3"):
        Index.open(index.path, encoder=toy)


def test_copies_of_an_index_serve_and_overwriting_changes_the_form(build, tmp_path, toy):
    index = build(map(document, range(5)))
    shutil.copytree(index.path, tmp_path / "copy")
    with Index.open(tmp_path / "copy", encoder=toy) as copy:
        check(copy)
    index.close()
    check(build(map(document, range(7)), overwrite=True, decoder_form="fp16"))
