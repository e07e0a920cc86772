"""Evidence and pruning: what is kept holds the share that was asked for, no less and no more than that takes."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.documents import Document
from sightline.errors import InputError
from sightline.rerank import Evidence, prune
from sightline.rerank.evidence import find_evidence
from sightline.sentences import sentence_spans

SENTENCES = ["Cats purr.", "Dogs bark loudly.", "It rained.", "木は高い。", "A. B. Smith came.", "x"]
WORDS = st.lists(st.sampled_from(SENTENCES), max_size=8)
TEXTS = st.builds(lambda words, gap: gap.join(words), WORDS, st.sampled_from([" ", "\n\n", "  "]))
SHARES = st.floats(0.01, 1)


def marked(text, masses, title=""):
    """Evidence by sentence, as rerankers return it: largest first."""
    spans = [Evidence(s, e, m, text[s:e]) for (s, e), m in zip(sentence_spans(text), masses, strict=False)]
    spans += [Evidence(0, len(title), 0.5, title, "title")] if title else []
    return sorted(spans, key=lambda span: -span.mass)


def kept_places(text, pruned):
    """Which sentences were kept, found from the texts alone and in order."""
    places, sentences = [], [text[s:e] for s, e in sentence_spans(text)]
    for span in sorted(pruned.evidence, key=lambda span: span.start):
        start = places[-1] + 1 if places else 0
        places.append(start + sentences[start:].index(span.text))
    return places


@given(TEXTS, st.lists(st.integers(0, 5), min_size=8, max_size=8), SHARES)
def test_as_few_sentences_are_kept_as_hold_the_share(text, masses, share):
    masses = masses[: len(sentence_spans(text))]
    pruned = prune(text, marked(text, masses, "Title"), share)
    held = sum(span.mass for span in pruned.evidence)
    if not sum(masses):
        assert pruned.text == text
        return
    assert held >= share * sum(masses) - 1e-9
    assert held - min(span.mass for span in pruned.evidence) < share * sum(masses)
    assert all(span.mass > 0 for span in pruned.evidence)
    left_out = sorted(masses, reverse=True)[len(pruned.evidence) :]
    assert not left_out or max(left_out) <= min(span.mass for span in pruned.evidence)


@given(TEXTS, st.lists(st.integers(0, 5), min_size=8, max_size=8), SHARES)
def test_the_text_is_its_sentences_in_order_with_an_ellipsis_for_each_gap(text, masses, share):
    pruned = prune(text, marked(text, masses), share)
    assert all(pruned.text[span.start : span.end] == span.text for span in pruned.evidence)
    assert [span.mass for span in pruned.evidence] == sorted((span.mass for span in pruned.evidence), reverse=True)
    sentences = sentence_spans(text)
    by_place = sorted(pruned.evidence, key=lambda span: span.start)
    rest = "".join(pruned.text.split())
    for span in by_place:
        before, rest = rest.split("".join(span.text.split()), 1)
        assert before in ("", "…")
    assert rest in ("", "…")
    assert pruned.text.count("…") <= len(by_place) + 1
    if len(by_place) == len(sentences):
        assert pruned.text == text


@given(TEXTS, st.lists(st.floats(0.01, 5), min_size=40, max_size=40), SHARES, st.integers(0, 30))
def test_evidence_by_token_prunes_as_evidence_by_sentence(text, masses, share, start):
    """Words as tokens; and a text that is a part of a longer one, in which the offsets count."""
    words = [(m.start(), m.end()) for m in re.finditer(r"\S+", text)]
    document, spans, mass = Document("d", text), np.array(words).reshape(-1, 2), np.array(masses[: len(words)])
    by_sentence, by_token = (find_evidence(document, spans, mass, grain) for grain in ("sentence", "token"))
    expected = prune(text, by_sentence, share)
    assert prune(text, by_token, share).text == expected.text
    moved = [Evidence(s.start + start, s.end + start, s.mass, s.text) for s in by_sentence]
    assert prune(text, moved, share, start=start) == expected


def test_what_was_not_read_is_left_out():
    text = "Cats purr. Dogs bark. Cows moo."
    assert prune(text, [Evidence(0, 10, 0.9, "Cats purr.")], 1).text == "Cats purr. …"


def test_whitespace_between_neighbours_stays():
    text = "Cats purr.\n\nDogs bark. Cows moo."
    assert prune(text, marked(text, [0.5, 0.4, 0.1]), 0.9).text == "Cats purr.\n\nDogs bark. …"


def test_evidence_of_other_parts_of_the_document_does_not_count():
    found = [Evidence(0, 10, 0.9, "Cats purr."), Evidence(11, 21, 0.1, "Dogs bark.")]
    assert prune("Dogs bark.", found, 0.5, start=11).text == "Dogs bark."


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan"), "0.5", True, None])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(InputError, match="above 0 and at most 1"):
        prune("Cats purr.", [], share)


def test_without_evidence_the_message_says_how_to_get_it():
    with pytest.raises(InputError, match='evidence="sentence"'):
        prune("Cats purr.", None, 0.5)
