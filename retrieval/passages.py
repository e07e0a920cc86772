"""Documents cut into passages that an encoder reads whole."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

from ..documents import Document, Passage
from ..errors import DataError, InputError
from ..parsing import DEEPEST, too_deep
from ..sentences import sentence_spans

__all__ = ["Splitter", "passage_batches"]


@dataclass(frozen=True, slots=True)
class Splitter:
    """Cuts documents into passages of whole sentences, packed greedily up to a number of model tokens.

    The title is repeated in front of every passage, so its tokens come out of the budget. A title longer than half of
    ``max_tokens`` counts as half, so that text always has room (the encoder then cuts what is too long). The next
    passage begins with whole trailing sentences of the former, as far as ``overlap`` and the budget allow. A sentence
    longer than the budget is cut between tokens, and between words if it has any. A passage exceeds the budget only if
    a single character has more tokens than the budget.

    Tokens are counted on the whole text. A tokenizer that reads the cut text in another way (after a cut inside a word)
    may count a few more.

    Args:
        offsets: a function that returns the character span of every model token of a text, in order, without special
            tokens and without truncation. Characters may have several tokens or none.
        max_tokens: the largest number of tokens of title and text together, at least 1.
        overlap: the number of tokens that two neighbouring passages may share, at least 0 and less than ``max_tokens``.

    Raises:
        InputError: if ``max_tokens`` or ``overlap`` is out of range.

    Example:
        >>> import re
        >>> splitter = Splitter(lambda text: [m.span() for m in re.finditer(r"[a-z]+|[.]", text.lower())], max_tokens=6)
        >>> [p.text for p in splitter.split(Document("d1", "Cats purr. Dogs bark. Cows moo all day."))]
        ['Cats purr. Dogs bark.', 'Cows moo all day.']
    """

    offsets: Callable[[str], list[tuple[int, int]]]
    max_tokens: int
    overlap: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise InputError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if not 0 <= self.overlap < self.max_tokens:
            raise InputError(f"overlap must be from 0 to max_tokens - 1 ({self.max_tokens - 1}), not {self.overlap}")

    def split(self, document: Document) -> list[Passage]:
        """Cut one document into passages.

        Args:
            document: any document. Its text and its title are tokenised once each.

        Returns:
            At least one passage, in the order of the text, but none for a document that has neither text nor title. A
            document that fits is one passage over all of its text; otherwise passages have no whitespace at their ends,
            and every other character is in at least one.

        Example:
            >>> document = Document("d1", "One two. Three.")
            >>> Splitter(lambda text: [(i, i + 1) for i in range(len(text))], max_tokens=99).split(document)[0].end
            15
        """
        if document.empty:
            return []
        text, tokens = document.text, self.offsets(document.text)
        title = len(self.offsets(document.title)) if document.title else 0
        budget = self.max_tokens - min(title, self.max_tokens // 2)
        if len(tokens) <= budget:
            return [Passage(document, 0, len(text))]

        starts, total = _groups(tokens)
        atoms, whole = _atoms(text, starts, total, budget)
        cuts = [0, *starts[1:], len(text)]
        passages: list[Passage] = []
        first, last = 0, 0
        while last < len(atoms) - 1:
            last += 1
            while last < len(atoms) - 1 and total[atoms[last + 1]] - total[atoms[first]] <= budget:
                last += 1
            start, piece = cuts[atoms[first]], text[cuts[atoms[first]] : cuts[atoms[last]]]
            inner = piece.strip()
            start += len(piece) - len(piece.lstrip())
            if inner and (not passages or start + len(inner) > passages[-1].end):  # blanks may have tokens too
                passages.append(Passage(document, start, start + len(inner)))
            first = last if last == len(atoms) - 1 else self._overlapped(atoms, whole, total, last, budget)
        return passages

    def _overlapped(self, atoms: list[int], whole: list[bool], total: list[int], last: int, budget: int) -> int:
        """First atom of the passage that must reach beyond atom ``last``.

        The atom at ``last`` did not fit behind the former passage's first one, hence it comes after that one: every
        passage ends later, and begins later, than the one before.
        """
        first = last
        while (
            whole[first - 1]
            and total[atoms[last]] - total[atoms[first - 1]] <= self.overlap
            and total[atoms[last + 1]] - total[atoms[first - 1]] <= budget
        ):
            first -= 1
        return first


def passage_batches(
    documents: Iterable[Document], splitter: Splitter | None, size: int
) -> Iterator[list[tuple[Document, list[Passage]]]]:
    """Cut documents into batches of passages, and check for what would otherwise fail only when a batch is written.

    Args:
        documents: the documents, read as a stream.
        splitter: the splitter that cuts them. If None, each document is kept whole.
        size: the number of passages at which a batch ends.

    Raises:
        DataError: if two documents of a batch have one id, or metadata cannot be kept as JSON.

    Example:
        >>> [len(batch) for batch in passage_batches((Document(str(i), "A text.") for i in range(5)), None, size=2)]
        [2, 2, 1]
    """
    batch: list[tuple[Document, list[Passage]]] = []
    ids: set[str] = set()
    count = 0
    for document in documents:
        if document.id in ids:
            raise DataError(f"two documents have the id {document.id!r}")
        try:
            json.dumps(dict(document.metadata), allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(f"document {document.id!r}: its metadata cannot be kept as JSON: {error}") from error
        if too_deep(document.metadata):
            raise DataError(f"document {document.id!r}: its metadata is nested deeper than {DEEPEST} levels")
        if splitter is not None:
            passages = splitter.split(document)
        else:
            passages = [] if document.empty else [Passage(document, 0, len(document.text))]
        batch.append((document, passages))
        ids.add(document.id)
        count += len(passages)
        if count >= size:
            yield batch
            batch, ids, count = [], set(), 0
    if batch:
        yield batch


def _groups(tokens: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Merge tokens that share characters, as the bytes of an emoji do: no cut can fall between them.

    Returns:
        (starts, total): first character of each group, and the tokens before each group and in all.
    """
    starts: list[int] = []
    sizes: list[int] = []
    end = 0
    for start, stop in tokens:
        if starts and start < end:
            sizes[-1] += 1
        else:
            starts.append(start)
            sizes.append(1)
        end = max(end, stop, start + 1)
    return starts, list(accumulate(sizes, initial=0))


def _atoms(text: str, starts: list[int], total: list[int], budget: int) -> tuple[list[int], list[bool]]:
    """Bounds, as group indices, of the pieces that are never cut: sentences, or parts of one over the budget.

    Returns:
        (bounds, whole): n + 1 bounds of n atoms, and for each atom whether it is a whole sentence.
    """
    # A group belongs to the sentence whose former ends at or before its start: tokens may begin with the blank before
    # a word, and one that reaches over a sentence's end stays in one piece.
    sentences = sorted({0, len(starts), *(bisect_left(starts, end) for _, end in sentence_spans(text))})
    bounds, whole = [0], []
    for sentence, end in pairwise(sentences):
        begin = sentence
        while total[end] - total[begin] > budget:
            limit = max(begin + 1, bisect_right(total, total[begin] + budget) - 1)
            words = (i for i in range(limit, begin, -1) if text[starts[i] - 1].isspace() or text[starts[i]].isspace())
            begin = next(words, limit) if limit < end else end
            bounds.append(begin)
            whole.append(False)
        if begin < end:
            bounds.append(end)
            whole.append(begin == sentence)
    return bounds, whole
