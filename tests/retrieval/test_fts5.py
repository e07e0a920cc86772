"""BM25 over FTS5 finds a text by its own words, however Unicode spells them."""

import sqlite3
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sightline.errors import IndexStoreError
from sightline.retrieval.analysis import document_terms, query_terms
from sightline.retrieval.fts5 import Fts5Index

FORMS = ("NFC", "NFD", "NFKC", "NFKD")


def index_of(*texts):
    index = Fts5Index(sqlite3.connect(":memory:"))
    index.add(range(len(texts)), texts)
    return index


# What language is written with, from many scripts, beside all that is hard about it.
HARD = "İıIßẞſσςΣΐᾳﬁŉǰǅµK\u0345\u0301\u0327\u00ad\u200d\u200bʼ’'™㎏½²ªⅣ㌔ｶﾞが각\u1100\u1161ไทย์ន្តहिन्दीأَשָׁלᏁꭰა𝐀中"
LETTERS = st.one_of(
    st.sampled_from(HARD),
    st.characters(categories=["L", "M", "N"], max_codepoint=0x3FFF),
    st.characters(categories=["L", "M", "N", "P", "S", "Zs", "Cf"]),
)


@given(st.lists(st.text(LETTERS, min_size=1, max_size=6), min_size=1, max_size=6))
@example(["ı", "I"])
@example(["ᾳ\u0301"])
def test_a_text_is_found_by_each_of_its_words_in_every_form_and_case(words):
    text = " ".join(words)
    index = index_of("nothing of the kind", text)
    for word in text.split():
        forms = [unicodedata.normalize(form, word) for form in FORMS]
        for spelt in {word, word.upper(), word.lower(), word.casefold(), *forms, *(form.upper() for form in forms)}:
            if document_terms(word):
                assert 1 in index.search(spelt, 5)[0], (word, spelt)


@given(st.text(LETTERS), st.sampled_from(FORMS))
def test_terms_are_of_the_text_and_not_of_its_form(text, form):
    other = unicodedata.normalize(form, text)
    if form in ("NFC", "NFD"):  # the others make "3½" into "31⁄2", which is no longer 3 and a half
        assert document_terms(other) == document_terms(text)
    terms = document_terms(text)
    assert [term for term in terms if not term or term.split() != [term] or '"' in term] == []


@given(st.text(LETTERS | st.sampled_from("中文日本語ภาษาไทยខ្មែរ한국어"), min_size=1), st.data())
def test_any_stretch_of_unspaced_writing_is_found_by_itself(text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    stretch = text[start : data.draw(st.integers(start + 1, len(text)))]
    unspaced = "".join(c for c in stretch if "\u3400" <= c <= "\u9fff" or "\uac00" <= c <= "\ud7a3")
    unspaced = "".join(c for c in unspaced if unicodedata.category(c)[0] == "L")  # hexagrams stand among them
    if unspaced and unspaced == stretch and unicodedata.is_normalized("NFD", stretch):
        assert 0 in index_of(text).search(stretch, 5)[0]


SAME = [
    ("İstanbul", "istanbul"),
    ("ISPARTA", "ısparta"),
    ("Straße", "STRASSE"),
    ("Ὀδυσσεύς", "ΟΔΥΣΣΕΥΣ"),
    ("résumé", "resume"),
    ("Ёлка", "елка"),
    ("ﬁnance", "finance"),
    ("Ｆｕｌｌ　Ｗｉｄｔｈ", "full width"),
    ("co\u00adoperate", "cooperate"),
    ("zero\u200bwidth", "zero width"),
    ("می\u200cخواهم", "میخواهم"),
    ("مُحَمَّد", "محمد"),
    ("كتــاب", "كتاب"),
    ("أحمد", "احمد"),
    ("שָׁלוֹם", "שלום"),
    ("한국어", unicodedata.normalize("NFD", "한국어")),
    ("ﾊﾟｿｺﾝ", "パソコン"),
    ("don’t", "don't"),
    ("donʼt", "don't"),
    ("Hawaiʻi", "Hawai'i"),
    ("ŉ", "'n"),
    ("H₂O", "H2O"),
    ("𝐁𝐨𝐥𝐝", "bold"),
    ("हिन्दी", unicodedata.normalize("NFD", "हिन्दी")),
    ("snake_case", "snake case"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_spellings_that_readers_take_for_the_same_give_the_same_terms(one, other):
    assert document_terms(one) == document_terms(other) != []
    assert query_terms(one) == query_terms(other)


@pytest.mark.parametrize(("one", "other"), [("कि", "की"), ("ผู้", "ผา"), ("schon", "sohn"), ("ø", "o"), ("が", "か")])
def test_other_words_stay_other_words(one, other):
    assert document_terms(one) != document_terms(other)
    assert index_of(one).search(other, 5)[0].tolist() == []


@pytest.mark.parametrize(
    "query",
    ["Python", "python 编程", "编程", "程", "学习", "使", "東京", "京", "ภาษา", "ไทย", "한국", "서울", "ខ្មែរ", "မြန်မာ"],
)
def test_words_in_writing_without_spaces_are_found(query):
    text = "我们使用Python编程来学习。東京都に住む。ฉันเรียนภาษาไทย 한국의 서울은 ភាសាខ្មែរ မြန်မာစာ"
    index = index_of("Ruby, 北海道, ลาว, 부산", text)
    assert index.search(query, 5)[0].tolist() == [1]


def test_symbols_that_stand_for_letters_are_found_apart_and_joined():
    index = index_of("nothing", "Foo™ weighs 5㎏ or 3½")
    for query in ("foo", "Foo™", "FooTM", "5kg", "5 kg", "kg", "3½", "3"):
        assert index.search(query, 5)[0].tolist() == [1]


def test_the_whole_word_comes_before_its_letters_scattered():
    assert index_of("京都の東側", "東京の地図").search("東京", 5)[0].tolist() == [1]


def test_terms_of_a_deleted_row_are_gone():
    texts = ["Straße in 東京 résumé", "STRASSE"]
    index = index_of(*texts)
    index.delete([0], texts[:1])
    assert index.search("strasse 東京 京 resume", 5)[0].tolist() == [1]


def test_no_character_of_a_query_is_syntax():
    index = index_of("cats AND dogs", "birds")
    for query in (
        '"cats',
        "cats*",
        "cats OR birds)",
        "NEAR(cats",
        "terms_1:cats",
        "cats\x00",
        "^cats",
        "-cats",
        "\ud800cats",
    ):
        assert 0 in index.search(query, 5)[0]


def test_a_table_of_other_terms_is_refused():
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE VIRTUAL TABLE lexical USING fts5(contents, content='', tokenize='porter unicode61')")
    with pytest.raises(IndexStoreError, match="another version .* build the index again"):
        Fts5Index(connection)
