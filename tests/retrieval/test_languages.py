"""Search and evidence in many languages and scripts, on short texts that were written for this test."""

import sqlite3

import pytest

from sightline import Searcher
from sightline.documents import Document
from sightline.retrieval.fts5 import Fts5Index
from sightline.retrieval.index import Index
from sightline.retrieval.tantivy_index import TantivyIndex
from sightline.sentences import sentence_spans

# Of each language three texts of two sentences, and a question that shares words with the first alone, and there with
# the second sentence most.
LANGUAGES = {
    "German": (
        [
            "Der Ofen ist alt. Das Brot wird bei 220 Grad gebacken.",
            "Der Hund bellt. Er ist alt.",
            "Es regnet. Das Tal ist nass.",
        ],
        "Bei wie viel Grad wird BROT gebacken?",
    ),
    "French": (
        [
            "La maison est vieille. Les élèves étudient l'été à la bibliothèque.",
            "Il pleut. Le chien dort.",
            "Le train part. Il est midi.",
        ],
        "où les ELEVES étudient",
    ),
    "Spanish": (
        [
            "El mar está en calma. El corazón late más rápido en la montaña.",
            "El tren sale. Llueve mucho.",
            "La casa es roja. El gato duerme.",
        ],
        "¿por qué late el corazon en la montaña?",
    ),
    "Turkish": (
        ["Kedi uyuyor. İstanbul'da ışık söndü.", "Köpek havlıyor. Hava soğuk.", "Tren gidiyor. Ev kırmızı."],
        "istanbul'da ışık",
    ),
    "Russian": (
        ["Кошка спит. Ёлка стоит в большом зале.", "Собака лает. Идёт дождь.", "Поезд ушёл. Дом красный."],
        "где стоит елка",
    ),
    "Greek": (
        [
            "Η γάτα κοιμάται. Ο Οδυσσέας γύρισε στην Ιθάκη.",
            "Ο σκύλος γαβγίζει. Βρέχει.",
            "Το τρένο φεύγει. Το σπίτι είναι παλιό.",
        ],
        "ΟΔΥΣΣΕΑΣ ΙΘΑΚΗ",
    ),
    "Arabic": (
        ["القطة نائمة. يُزرع القمح في الشتاء.", "الكلب ينبح. السماء تمطر.", "غادر القطار. البيت قديم."],
        "متى يزرع القمح",
    ),
    "Hebrew": (
        ["החתול ישן. שָׁלוֹם נחתם בעיר.", "הכלב נובח. יורד גשם.", "הרכבת יצאה. הבית ישן."],
        "היכן נחתם שלום",
    ),
    "Hindi": (
        ["बिल्ली सो रही है। गेहूँ सर्दी में बोया जाता है।", "कुत्ता भौंकता है। बारिश हो रही है।", "रेलगाड़ी चली गई। घर लाल है।"],
        "गेहूँ कब बोया जाता है",
    ),
    "Chinese": (
        ["猫在睡觉。小麦在冬天播种。", "狗在叫。外面下雨了。", "火车开走了。房子是红色的。"],
        "小麦什么时候播种",
    ),
    "Japanese": (
        ["猫が寝ています。小麦は冬に蒔かれる。", "犬が吠えます。雨が降っています。", "列車は出ました。家は赤いです。"],
        "小麦はいつ蒔かれるか",
    ),
    "Korean": (
        ["고양이가 잔다. 밀은 겨울에 심는다.", "개가 짖는다. 비가 온다.", "기차가 떠났다. 집은 빨갛다."],
        "밀을 언제 심는가",
    ),
    "Thai": (
        ["แมวกำลังนอนหลับ ข้าวสาลีปลูกในฤดูหนาว", "สุนัขเห่า ฝนกำลังตก", "รถไฟออกไปแล้ว บ้านสีแดง"],
        "ข้าวสาลีปลูกเมื่อใด",
    ),
    "Burmese": (
        ["ကြောင်အိပ်နေသည်။ ဂျုံကိုဆောင်းရာသီတွင်စိုက်သည်။", "ခွေးဟောင်သည်။ မိုးရွာသည်။", "ရထားထွက်သွားပြီ။ အိမ်နီသည်။"],
        "ဂျုံကိုဆောင်းရာသီ",
    ),
    "Armenian": (
        ["Կատուն քնած է։ Ցորենը ցանում են ձմռանը։", "Շունը հաչում է։ Անձրև է գալիս։", "Գնացքը մեկնեց։ Տունը կարմիր է։"],
        "երբ են ցանում ցորենը",
    ),
    "Amharic": (
        ["ድመቷ ተኝታለች። ስንዴ በክረምት ይዘራል።", "ውሻው ይጮኻል። ዝናብ ይዘንባል።", "ባቡሩ ሄደ። ቤቱ ቀይ ነው።"],
        "ስንዴ መቼ ይዘራል",
    ),
}


@pytest.fixture(params=["fts5", "tantivy"])
def words(request, tmp_path):
    if request.param == "fts5":
        return Fts5Index(sqlite3.connect(":memory:"))
    pytest.importorskip("tantivy", reason="needs the extra 'tantivy'")
    return TantivyIndex(tmp_path / "words", create=True)


def test_bm25_finds_the_text_with_the_words_of_the_question(words):
    texts = [text for own, _ in LANGUAGES.values() for text in own]
    words.add(range(len(texts)), texts)
    found = {name: words.search(query, 1)[0].tolist() for name, (_, query) in LANGUAGES.items()}
    assert found == {name: [3 * place] for place, name in enumerate(LANGUAGES)}


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_text_has_two_sentences(language):
    for text in LANGUAGES[language][0]:
        assert len(sentence_spans(text)) == 2


def test_a_search_answers_in_every_script_with_whole_sentences_as_evidence(tmp_path):
    documents = [Document(f"{name} {i}", text) for name, (own, _) in LANGUAGES.items() for i, text in enumerate(own)]
    with Index.build(tmp_path / "index", documents) as index:
        # The default model knows English alone, so the words choose; it still marks what it looked at.
        searcher = Searcher(index, first_stage="bm25", candidates=1)
        for name, (own, query) in LANGUAGES.items():
            [best] = searcher.search(query, 1, evidence="sentence").hits
            assert best.document.id == f"{name} 0", name
            marked = {(mark.start, mark.end) for mark in best.evidence}
            assert marked <= set(sentence_spans(own[0])) and marked, name
