"""Turn text into BM25 terms, in the same way for documents and queries.

Texts that differ only in how Unicode spells them give the same terms:

- Case: full case folding; ``ß`` and ``SS``, Greek final sigma, Turkish ``İ`` and ``ı`` included.
- Form: compatibility decomposition (NFKD), so that composed and decomposed accents, ligatures, full-width and
  half-width forms, superscripts and mathematical letters are the letters they stand for.
- Accents, Hebrew points and Arabic vowel signs never count: ``résumé`` is ``resume``. Marks that spell a word, as in
  the scripts of India and South-East Asia, do count.
- Soft hyphens, joiners, direction marks and other invisible characters are dropped. A zero-width space parts words.

Words are runs of letters, digits and marks. Scripts that put no spaces between words (Chinese, Japanese, Thai, Lao,
Khmer, Burmese) and Korean, which glues particles to them, become overlapping pairs of letters, as in Lucene's CJK
analyser.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

__all__ = ["beginnings", "document_terms", "query_terms"]

# Blocks whose letters become pairs; punctuation and digits in them are told by their category.
_PAIRED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\u31ff\u3400-\u9fff\ua960-\ua97f\uac00-\ud7ff"
    "\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
_SCRIPTS = re.compile(f"([{_PAIRED}]+)|[^{_PAIRED}]+")
# Marks that are read over: on Latin, Greek and Cyrillic letters, Hebrew points, Arabic and Syriac vowels.
_ACCENTS = re.compile(
    "[\u0300-\u036f\u0483-\u0489\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0711\u0730-\u074a"
    "\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f\U000e0100-\U000e01ef"
    "\u0640\u115f\u1160\u180b-\u180f\u3164]"  # Arabic's stretcher, fillers and selectors: letters and marks of no sound
)
_OTHERWISE = {
    "\u200b": " ",  # a zero-width space is where a word may end
    "\u0131": "i",  # dotless i, whose capital is I
    "\u02bb": " ",  # letters that are written as apostrophes are
    "\u02bc": " ",
}


class _Symbols(dict[int, int | str]):
    """For `str.translate`: symbols that stand for letters or digits ("5㎏", "3½") become separate words."""

    def __missing__(self, code: int) -> int | str:
        char = chr(code)
        spelt = unicodedata.normalize("NFKD", char)
        parted = spelt != char and (unicodedata.category(char)[0] == "S" or "\u2044" in spelt)
        return self.setdefault(code, f" {spelt} " if parted else code)


class _Letters(dict[int, int | str | None]):
    """For `str.translate`: letters, digits and marks stay, what is not heard goes, and all else parts words."""

    def __missing__(self, code: int) -> int | str | None:
        char = chr(code)
        kind = unicodedata.category(char)
        value: int | str | None = " "
        if char in _OTHERWISE:
            value = _OTHERWISE[char]
        elif kind == "Cf" or _ACCENTS.match(char):
            value = None
        elif kind[0] in "LNM" or kind == "Co":
            value = code
        return self.setdefault(code, value)


_SYMBOLS, _LETTERS = _Symbols(), _Letters()


def document_terms(text: str) -> list[str]:
    """Return the terms of a document, in order.

    Args:
        text: any text, which may be empty.

    Returns:
        Folded words. A run of letters that is indexed in pairs is followed by its last letter alone, so that every
        letter begins a term.

    Example:
        >>> document_terms("Le R\u00e9sum\u00e9 de Stra\u00dfe\u2122, 10\u202fk\u2126")
        ['le', 'resume', 'de', 'strasse', 'tm', '10', 'kω', 'strassetm']
        >>> document_terms("Python\u3092\u5b66\u3076")
        ['python', 'を学', '学ぶ', 'ぶ']
    """
    terms: list[str] = []
    for letters in _runs(text):
        terms += [*_pairs(letters), letters[-1]]
    return terms


def query_terms(text: str) -> list[tuple[str, bool]]:
    """Return the terms of a query, each once, in order.

    Args:
        text: any text, which may be empty.

    Returns:
        Folded words, each with whether a document's term need only begin with it. That is so for a letter that stands
        alone where letters are indexed in pairs.

    Example:
        >>> query_terms("STRASSE strasse \u5b66")
        [('strasse', False), ('学', True)]
    """
    terms: list[tuple[str, bool]] = []
    for letters in _runs(text):
        alone = len(letters) == 1 and _SCRIPTS.fullmatch(letters[0])[1] is not None  # type: ignore[index]
        terms += [(pair, False) for pair in _pairs(letters)] or [(letters[0], alone)]
    return list(dict.fromkeys(terms))


def beginnings(term: str) -> list[str]:
    """Return the letters of a term that a query's single letter can find.

    Args:
        term: a term as `document_terms` returns it.

    Example:
        >>> beginnings("\u5b66\u3076"), beginnings("cat")
        (['学'], [])
    """
    paired = _SCRIPTS.match(term)
    if paired is None or paired[1] is None:
        return []
    letter = _letters(term)[0]
    return [letter[:end] for end in range(1, len(letter) + 1)]


def _runs(text: str) -> list[list[str]]:
    """Words, cut where writing with spaces meets writing without: of the former whole, of the latter by letters."""
    runs: list[list[str]] = []
    for word in _words(text):
        if word.isascii():
            runs.append([word])
        else:
            runs += [_letters(run[0]) if run[1] else [run[0]] for run in _SCRIPTS.finditer(word)]
    return runs


def _words(text: str) -> list[str]:
    if text.isascii():
        return text.lower().translate(_LETTERS).split()
    parted = text.translate(_SYMBOLS)
    # A word with such symbols is also a word without them: "Foo\u2122" is "foo tm" and "footm".
    whole = [] if parted == text else [word for word in text.split() if word.translate(_SYMBOLS) != word]
    return _folded(" ".join([parted, *whole])).split()


def _folded(text: str) -> str:
    # Compatibility caseless matching: the Unicode Standard, section 3.13, definition D146.
    text = unicodedata.normalize("NFD", text).casefold()
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return unicodedata.normalize("NFC", text.translate(_LETTERS))


def _letters(run: str) -> list[str]:
    """The letters of a run, each with the marks on it."""
    letters: list[str] = []
    for char in run:
        if letters and unicodedata.category(char)[0] == "M":
            letters[-1] += char
        else:
            letters.append(char)
    return letters


def _pairs(letters: list[str]) -> list[str]:
    return [first + second for first, second in pairwise(letters)]
