import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.sentences import sentence_spans


def sentences(text):
    return [text[start:end] for start, end in sentence_spans(text)]


# One case per line, sentences divided by "|"; "¶" is a line break.
CASES = """
It rains.| It pours.
Really?| Yes!| No...| Well.
He paid 3.5 mg.| Then 2.| And p < .05 was fine.
Smith et al. showed it.| We agree.
It is by Smith et al.| The rest is not.
See Fig. 2 and Eqs. 3-4 for it.| Also (cf. Table 1).
In the U.S. Army it holds.| It is so in the U.S.| The law differs.
J. R. Smith and Dr. Jones met Mr. T. Brown.| They talked.
We use e.g. mice, i.e. Mus musculus, vs. rats.| E. coli grew.
At 9 a.m. Monday it began.| It ended at 5 p.m.| They left.
He has a Ph.D. in physics.| She does not.
See no. 5 and pp. 3-4.| She said no.| Then she left.
Cells, tissues, etc. were used.| Others, etc.| Patients came.
He said "Stop."| Then he left.
"Why?" he asked.| "Because!" she said.
(It ended.)| A new one began.
It was known.[12]| It was new [3, 4].| Right.
version 2.0.1 of example.com and os.path is out.| Good.
it works fine.| then it stops.| ok.
Vitamin C.| The rest.
So do I.| Then go.
Yahoo!| Inc... and more
今天下雨。|明天晴！|「好。」|他说
これは文です。|次の文です？|はい。
यह वाक्य है।| दूसरा वाक्य।
ဒါကစာကြောင်းပါ။| နောက်တစ်ကြောင်း။
នេះជាប្រយោគ។| មួយទៀត។
Սա նախադասություն է։| Եվ սա։
ይህ ዓረፍተ ነገር ነው።| ሌላ።
هذه جملة.| وهذه أخرى؟| نعم!
یہ ایک جملہ ہے۔| دوسرا جملہ۔
แมวนอนบนโซฟา| สุนัขเห่าคนแปลกหน้า| มี 3 ตัว
ແມວນອນ| ໝາເຫົ່າ
Кошка спит.| Собака лает на т. д. людей.
First line¶goes on. |Then¶ends.
A title¶¶|Some text¶ ¶|More.
Intro:¶|- one thing¶|- another. |Still.¶|* third
Steps¶|1. Do this. |Then that.¶|2. Do more.
It is so.| 2.) Then it was.| These suggest P. emblica.
1. Introduction |¶¶2. Methods
# A title. With a stop¶|Text here. |More.
Old title¶=====¶|Text here.
windows\r¶\r¶|breaks here.
page one\f|page two
In 2010. |25 patients came.
In 5 min. |All died.
Was it Jan. 5? |No: Dec. 7.
the flow is slow .| in it , heat . . .| rises .
Nothing (see etc. , or p. ; here) ends.
On St. John's day. |The End.
"""
CASES = [line.replace("¶", "\n") for line in CASES.strip("\n").split("\n")]


@pytest.mark.parametrize("case", CASES)
def test_known_boundaries(case):
    assert sentences(case.replace("|", "")) == [part.strip() for part in case.split("|")]


def check_cover(text):
    spans = sentence_spans(text)
    before = 0
    for start, end in spans:
        assert before <= start < end <= len(text)
        assert not text[before:start].strip()
        assert text[start:end] == text[start:end].strip()
        before = end
    assert not text[before:].strip()
    return spans


@given(st.text() | st.text(alphabet="aB1 .!?。\n\r-#=*()[]\"'e\t\u00a0\u2029…😀"))
def test_every_character_in_exactly_one_sentence(text):
    check_cover(text)


@given(st.lists(st.sampled_from(["Cats purr.", "It is 3.5 mg.", "Why not?", "今天下雨。"]), min_size=1))
def test_joined_sentences_come_apart(parts):
    assert sentences(" ".join(parts)) == parts


@given(st.text(), st.text())
def test_a_blank_line_always_ends_a_sentence(left, right):
    text = left + "\n \n" + right
    assert not any(start < len(left) and end > len(left) + 3 for start, end in check_cover(text))


@pytest.mark.parametrize(
    "unit", ["a", " ", ".", "\n", "。", ". ", "a. ", "e.g. ", "[", "[1", ".[1", '."', "\n ", "\n-", "\n- ", "=", "#"]
)
def test_a_megabyte_takes_linear_time(unit):
    text = "x" + unit * (1_000_000 // len(unit)) + "x"
    begin = time.process_time()
    check_cover(text)
    assert time.process_time() - begin < 10  # a quadratic scan takes hours


def test_random_megabyte():
    rng = random.Random(0)
    check_cover("".join(rng.choices("abC .?\n-1。", k=1_000_000)))


def test_empty():
    assert sentence_spans("") == sentence_spans(" \n\t ") == []
