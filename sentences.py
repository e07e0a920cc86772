"""Find sentences by plain rules: without a model, in time linear in the text."""

from __future__ import annotations

import re

__all__ = ["sentence_spans"]

# Every quantifier that can meet long runs is possessive and no alternative starts in the middle of another's run, so
# hostile texts (a megabyte of dots, of blanks, of brackets) are still scanned once.
_BREAK = re.compile(
    r"""
    (?P<block>
        \n[^\S\n]*+ (?: \n | (?= (?: [-*•‣◦▪●|] | \d{1,3}[.)] | [A-Za-z]\) | \#{1,6} ) [^\S\n] ) )  # blank, item, row
      | \n[=~^-]{3,}+ [^\S\n]*+ \n                                                                 # underlined title
      | ^\#{1,6} [^\S\n] [^\n]*+ \n                                                                # Markdown title
      | [\f\u2029]
    )
  | (?P<always> [。！？｡।॥።፧፨։။។៕།༎᠃෴]++ [」』）】》〉”’"')\]»]*+ )
  | (?<= [\u0e01-\u0e4e\u0e81-\u0ecd\u0edc-\u0edf] ) (?P<gap> [^\S\n]++ )                             # Thai and Lao
    (?= [\u0e01-\u0e4e\u0e81-\u0ecd\u0edc-\u0edf] )
  | (?P<stop> [.!?…؟۔]++ ) (?P<close> ["'”’»)\]}*_]*+ (?: \[ [\d,\ –-]{1,20}+ \] )*+ )
    """,
    re.VERBOSE | re.MULTILINE,
)
_NEXT = re.compile(r"\s++[\"'“‘«(\[*_]*+(\w++|\S|)")
_ENUMERATOR = re.compile(r"\d{1,3}|[A-Za-z]|[ivxIVX]{1,4}")
_DOTTED = re.compile(r"(?:[A-Za-z]{1,2}\.)+[A-Za-z]{1,2}")

_TITLES = frozenset("Mr Mrs Ms Dr Prof Rev Gen Sen Rep Gov Capt Lt Col Sgt Hon Mt Messrs".split())
_INNER = frozenset("fig figs eq eqs e.g i.e eg ie cf vs viz approx ca incl excl resp dept univ".split())
_NUMBERED = frozenset(
    "no nos art pp vol vols sec sect ch chap ref refs tab jan feb mar apr jun jul aug sep sept oct nov dec".split()
)
_EITHER = frozenset("al inc ltd co corp jr sr bros st ed eds sp spp var subsp suppl".split())
_STARTERS = frozenset(
    "The This These Those There They We Our It Its In On At As After Although And But By Both During Finally For From "
    "Furthermore Here However If Moreover Results Since Then Therefore Thus To Using When Where While With".split()
)
_WINDOW = 40  # characters looked at before a stop: longer than any abbreviation


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Find the sentences of a text.

    A blank line, a list item, a row of a Markdown table and a title always end a sentence; a single line break does not
    (wrapped prose). Full stops after abbreviations, initials, list numbers and inside numbers do not end a sentence;
    the full stops of Chinese, Japanese, Hindi, Burmese, Khmer, Tibetan, Armenian and Ethiopic always do. Thai and Lao
    have none: there, a space between letters ends a sentence or a clause.

    Args:
        text: any text. HTML and other markup is read as plain text.

    Returns:
        (start, end) character offsets into ``text``, in order and disjoint. No span is empty or has whitespace at
        its ends, and every character that is not whitespace is in exactly one span.

    Example:
        >>> text = "Smith et al. gave 3.5 mg. It helped (Fig. 2)."
        >>> [text[start:end] for start, end in sentence_spans(text)]
        ['Smith et al. gave 3.5 mg.', 'It helped (Fig. 2).']
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for boundary in _BREAK.finditer(text):
        if boundary["stop"] is None or _ends_sentence(text, start, boundary):
            _append_stripped(spans, text, start, boundary.end())
            start = boundary.end()
    _append_stripped(spans, text, start, len(text))
    return spans


def _append_stripped(spans: list[tuple[int, int]], text: str, start: int, end: int) -> None:
    piece = text[start:end]
    if inner := piece.strip():
        start += len(piece) - len(piece.lstrip())
        spans.append((start, start + len(inner)))


def _ends_sentence(text: str, start: int, boundary: re.Match[str]) -> bool:
    """Tell whether the stop that was found ends the sentence that began at ``start``."""
    follows = _NEXT.match(text, boundary.end())
    if follows is None:
        return boundary.end() == len(text) or text[boundary.end()].isspace()
    following = follows[1]
    lowercase, stop = following[:1].islower(), boundary["stop"]
    if following[:1] in {",", ";", ":", ")", "]", ".", "|"}:
        return False
    if stop != ".":
        return not lowercase or ("." not in stop and "…" not in stop and not boundary["close"])
    before = text[max(start, boundary.start() - _WINDOW) : boundary.start()]
    if boundary.start() - start <= _WINDOW and _ENUMERATOR.fullmatch(before.strip()):
        return False
    if boundary["close"]:
        return not lowercase
    word = re.split(r"[\s(\[{\"'“‘/—–-]", before)[-1]
    return _dot_ends_sentence(word, following, lowercase)


def _dot_ends_sentence(word: str, following: str, lowercase: bool) -> bool:
    if not word:  # a stop on its own, as in tokenised text
        return True
    key = word.lower()
    if word in _TITLES or key in _INNER:
        return False
    if key in _NUMBERED:
        return not following[:1].isdigit()
    initial = len(word) == 1 and (word.isupper() or (word.isascii() and word.isalpha()))
    if initial or key in _EITHER or _DOTTED.fullmatch(word):
        return following in _STARTERS
    # Carelessly typed prose begins sentences in lower case; an unknown abbreviation is mostly shorter than this.
    return not lowercase or (len(word) >= 4 and word.isalpha() and word.islower())
