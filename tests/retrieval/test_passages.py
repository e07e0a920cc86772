import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.documents import Document
from sightline.errors import InputError
from sightline.retrieval.passages import Splitter
from sightline.retrieval.sources import load_documents
from sightline.sentences import sentence_spans


def words(text):
    return [m.span() for m in re.finditer(r"\w+|[^\w\s]", text)]


def words_with_blank(text):
    """As byte-level and metaspace tokenizers do: the blank before a word is part of it."""
    return [m.span() for m in re.finditer(r"\s?(?:\w+|[^\w\s])|\s+", text)]


def characters(text):
    return [(i, i + 1) for i in range(len(text))]


def octets(text):
    """Several tokens on one character."""
    return [(i, i + 1) for i, letter in enumerate(text) for _ in letter.encode("utf-8", "surrogatepass")]


def skipping(text):
    """No token at all for control characters, digits and the letter e."""
    return [m.span() for m in re.finditer(r"[^\W\de]+", text)]


def over_the_stop(text):
    """Tokens that reach from one sentence into the next."""
    return [m.span() for m in re.finditer(r"[.。!?]+\s*\w?|\w|[^\w\s]", text)]


TOKENIZERS = [words, words_with_blank, characters, octets, skipping, over_the_stop]
TEXTS = st.text(min_size=1, max_size=300) | st.lists(
    st.sampled_from(
        [
            "Cats purr.",
            "Dogs bark loudly!",
            "Why",
            "今天下雨。",
            "😀",
            "👩‍👩‍👧",
            "\n\n",
            "e.g. 3.5 mg.",
            "\x01\x02",
            "aaaaaaaaaaaaaaaaaaaaaaaaa",
            "- x\n",
        ]
    ),
    min_size=1,
    max_size=40,
).map(" ".join)
TEXTS = TEXTS.map(lambda text: text.replace("\0", "\1")).filter(str.strip)


def check(document, passages, splitter):
    text, tokens = document.text, splitter.offsets(document.text)
    title = len(splitter.offsets(document.title)) if document.title else 0
    budget = splitter.max_tokens - min(title, splitter.max_tokens // 2)
    if len(tokens) <= budget:
        assert [(p.start, p.end) for p in passages] == [(0, len(text))]
        return
    covered = bytearray(len(text))
    former = None
    for passage in passages:
        assert passage.document is document
        assert passage.text.strip() == passage.text != ""
        inside = [t for t in tokens if t[0] < passage.end and t[1] > passage.start]
        assert len(inside) <= budget or len(set(inside)) == 1 == inside[0][1] - inside[0][0]
        covered[passage.start : passage.end] = b"\1" * (passage.end - passage.start)
        if former:
            assert passage.start > former.start and passage.end > former.end
            shared = [t for t in tokens if t[0] < former.end and t[1] > passage.start]
            assert len(shared) <= splitter.overlap
        former = passage
    assert all(covered[i] or letter.isspace() for i, letter in enumerate(text))


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.sampled_from(TOKENIZERS), st.integers(1, 40), st.data())
def test_properties(text, tokenizer, max_tokens, data):
    overlap = data.draw(st.integers(0, max_tokens - 1) | st.just(max_tokens - 1))
    title = data.draw(st.sampled_from(["", "Cats", "Cats and dogs and many more animals " * 3]))
    splitter = Splitter(tokenizer, max_tokens, overlap)
    document = Document("d", text, title)
    check(document, splitter.split(document), splitter)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5)), max_size=60), st.integers(1, 9))
def test_any_offsets_at_all_end_and_cover(raw, max_tokens):
    text = "One two. Three four. " * 3
    tokens = sorted((start, min(start + width, len(text))) for start, width in raw)
    passages = Splitter(lambda text: tokens, max_tokens, max_tokens - 1).split(Document("d", text))
    covered = {i for p in passages for i in range(p.start, p.end)}
    assert all(i in covered for i, letter in enumerate(text) if not letter.isspace())
    assert len(passages) <= len(tokens) + 1


@pytest.mark.parametrize("tokenizer", [words, words_with_blank])
def test_sentences_are_packed_and_overlap(tokenizer):
    text = "One two. Three four. Five six. Seven eight. Nine ten."  # 3 tokens a sentence
    split = Splitter(tokenizer, 9).split(Document("d", text))
    assert [p.text for p in split] == ["One two. Three four. Five six.", "Seven eight. Nine ten."]
    split = Splitter(tokenizer, 9, overlap=5).split(Document("d", text))
    assert [p.text for p in split] == ["One two. Three four. Five six.", "Five six. Seven eight. Nine ten."]
    split = Splitter(tokenizer, 9, overlap=2).split(Document("d", text))
    assert [p.text for p in split] == ["One two. Three four. Five six.", "Seven eight. Nine ten."]


def test_overlap_gives_way_to_the_next_sentence():
    text = "So bb cc. Do e f g h i jk. Li m noo. On pp."
    split = Splitter(words, 10, overlap=9).split(Document("d", text))
    assert [p.text for p in split] == ["So bb cc.", "Do e f g h i jk.", "Li m noo. On pp."]


def test_long_sentence_is_cut_between_words_and_its_rest_is_packed():
    text = "Short one. Internationalization of very-long things goes on and on here. End."
    split = Splitter(lambda t: [(i, i + 1) for i, c in enumerate(t) if c != " "], 24).split(Document("d", text))
    assert [p.text for p in split] == [
        "Short one.",
        "Internationalization of",
        "very-long things goes on and",
        "on here. End.",
    ]
    split = Splitter(characters, 10).split(Document("d", "x" * 25))
    assert [len(p.text) for p in split] == [10, 10, 5]


@pytest.mark.parametrize(("words_in_title", "tokens_of_text"), [(0, 10), (3, 7), (5, 5), (50, 5)])
def test_title_takes_at_most_half(words_in_title, tokens_of_text):
    document = Document("d", "w " * 99, "t " * words_in_title)
    split = Splitter(words, 10).split(document)
    assert {len(words(p.text)) for p in split[:-1]} == {tokens_of_text}


def test_text_is_tokenised_once():
    calls = []

    def counting(text):
        calls.append(text)
        return words(text)

    document = Document("d", "One two three. " * 50, "Title")
    assert len(Splitter(counting, 10, 4).split(document)) > 5
    assert calls == [document.text, "Title"]


def test_document_that_fits_is_whole():
    document = Document("d", "  One two.\n\nThree.  ")
    assert [(p.start, p.end) for p in Splitter(words, 5).split(document)] == [(0, 20)]
    assert [(p.start, p.end) for p in Splitter(lambda text: [], 1).split(document)] == [(0, 20)]


@pytest.mark.parametrize(("max_tokens", "overlap"), [(0, 0), (-1, 0), (5, 5), (5, 6), (5, -1), (1, 1)])
def test_bad_arguments(max_tokens, overlap):
    with pytest.raises(InputError, match=r"max_tokens|overlap"):
        Splitter(words, max_tokens, overlap)


def test_half_a_megabyte_without_a_stop():
    split = Splitter(words, 200, 199).split(Document("d", "word " * 100_000))
    assert len(split) == 500
    assert len(Splitter(characters, 200, 199).split(Document("d", "我" * 500_000))) == 2500
    assert len(Splitter(words, 10, 9).split(Document("d", "Cat. " * 50_000))) > 10_000


@pytest.mark.parametrize("kind", ["wordpiece", "bytelevel", "metaspace"])
@settings(max_examples=60, deadline=None)
@given(text=TEXTS, max_tokens=st.integers(4, 30))
def test_real_tokenizers(kind, text, max_tokens):
    tokenizer = TRAINED[kind]

    def offsets(text):
        return tokenizer.encode(text, add_special_tokens=False).offsets

    splitter = Splitter(offsets, max_tokens, max_tokens // 3)
    document = Document("d", text, "A title")
    check(document, splitter.split(document), splitter)


def _trained():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    corpus = ["Cats purr. Dogs bark loudly! Why is it? Internationalization, 3.5 mg e.g. today."] * 3
    piece = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    piece.normalizer, piece.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    piece.train_from_iterator(
        corpus, trainers.WordPieceTrainer(vocab_size=80, special_tokens=["[UNK]"], show_progress=False)
    )
    octet = Tokenizer(models.BPE())
    octet.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    octet.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    meta = Tokenizer(models.BPE(unk_token="[UNK]"))
    meta.normalizer, meta.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    meta.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=100, special_tokens=["[UNK]"], show_progress=False))
    return {"wordpiece": piece, "bytelevel": octet, "metaspace": meta}


TRAINED = _trained()


@pytest.mark.data
def test_real_documents():
    root = os.environ.get("SIGHTLINE_DATA")
    if not root:
        pytest.skip("SIGHTLINE_DATA is not set: no judged collections to read")
    splitter = Splitter(words, 64, 20)
    collections = [path for name in ("scifact", "cranfield", "nfcorpus") if (path := Path(root, name)).is_dir()]
    assert collections
    for collection in collections:
        for _, document in zip(range(200), load_documents(collection), strict=False):
            passages = splitter.split(document)
            check(document, passages, splitter)
            starts = {start for start, _ in sentence_spans(document.text)}
            assert len(passages) == 1 or sum(p.start in starts for p in passages) >= len(passages) / 3
