"""Draw lists from examples. The same seed and step give the same lists, whatever was drawn before."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..documents import Document
from ..errors import InputError
from ..sentences import sentence_spans
from .config import Sampling
from .examples import Example, text_key
from .learner import TrainingList

__all__ = ["ListSampler"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The documents of a list that are its example's own, perturbed, by the keys of what they were."""

    example: Example
    positives: dict[int, Document]
    negatives: dict[int, Document]
    missing: int  # negatives to be taken from other lists


class ListSampler:
    """Draws the lists of a step.

    Positives always are in the list, up to half of it. Negatives come in equal parts from the pools of the example,
    that is, from each of its first stages. The order is shuffled. A document whose text is known to answer the same
    question, in whichever example, is never a negative.

    Args:
        examples: the examples to draw from.
        sampling: how lists are drawn.
        seed: the seed of everything that is drawn.

    Raises:
        InputError: if there is no example, a weight names no source, or ``in_batch`` is 0 and no question of a source
            has negatives. If only some questions have none, they are left out, and a warning counts them.

    Example:
        >>> dogs = Example("who purrs", (Document("c", "Cats purr."),), ((Document("d", "Dogs bark."),),))
        >>> [drawn] = ListSampler([dogs], Sampling(documents=(2, 2))).batch(step=0, lists=1)
        >>> sorted(zip([d.id for d in drawn.documents], drawn.positive))
        [('c', True), ('d', False)]
    """

    def __init__(self, examples: Sequence[Example], sampling: Sampling, seed: int = 0) -> None:
        if not examples:
            raise InputError("there is no example to draw lists from")
        self.examples, self.sampling, self.seed = examples, sampling, seed
        self._sources: dict[str, list[int]] = {}
        self._known: dict[str, set[int]] = {}  # by question: texts that are no negatives of it
        for place, example in enumerate(examples):
            self._sources.setdefault(example.source, []).append(place)
            known = self._known.setdefault(_question(example), set())
            known.update(map(text_key, (*example.positives, *example.excluded)))
        if not sampling.in_batch:
            self._leave_out_without_negatives()
        if strange := sorted(set(sampling.weights) - set(self._sources)):
            raise InputError(f"a weight names {strange[0]!r}; the sources are {', '.join(self._sources)}")
        counts = {name: len(places) * sampling.weights.get(name, 1.0) for name, places in self._sources.items()}
        self._counts = {name: max(1, round(count)) for name, count in counts.items()}
        self._epoch: tuple[int, list[int]] = (-1, [])

    def _leave_out_without_negatives(self) -> None:
        for source, places in self._sources.items():
            usable = [place for place in places if self._has_negative(self.examples[place])]
            if not usable:
                raise InputError(
                    f"{source or 'the examples'}: no question has negatives to learn from; mine some, such as by "
                    f"sightline mine {source or 'FOLDER'} --system bm25 --out {source or 'mined'}_hard.jsonl, and "
                    "train on that file; or give candidates as a run; or take the other questions' documents by an "
                    "in_batch above 0"
                )
            if len(usable) < len(places):
                lacking = next(place for place in places if place not in set(usable))
                logger.warning(
                    "%s: %d of %d questions have no negatives, such as %r; left out",
                    source or "examples",
                    len(places) - len(usable),
                    len(places),
                    self.examples[lacking].query[:80],
                )
            self._sources[source] = usable

    def _has_negative(self, example: Example) -> bool:
        known = self._known[_question(example)]
        return any(text_key(document) not in known for pool in example.pools for document in pool)

    @property
    def epoch(self) -> int:
        """The number of lists in an epoch."""
        return sum(self._counts.values())

    def batch(self, step: int, lists: int) -> list[TrainingList]:
        """Draw the lists of a step.

        Args:
            step: the number of the step, from 0.
            lists: the number of lists in every step.

        Raises:
            InputError: if a list would have no negative, because no other list of the step has one for it.
        """
        rngs = [np.random.default_rng((self.seed, step, place)) for place in range(lists)]
        chosen = [self.examples[self._place(step * lists + place)] for place in range(lists)]
        drawn = [self._draw(example, rng) for example, rng in zip(chosen, rngs, strict=True)]
        return [self._finish(drawn, place, rng) for place, rng in enumerate(rngs)]

    def _place(self, number: int) -> int:
        """Which example the list of this number, counted from the start of training, is drawn from."""
        epoch, within = divmod(number, self.epoch)
        if self._epoch[0] != epoch:
            # The third word keeps this stream apart from those of lists, whose words are three as well.
            rng = np.random.default_rng((self.seed, epoch, 1 << 32))
            order: list[int] = []
            for name, places in self._sources.items():
                whole, rest = divmod(self._counts[name], len(places))
                order += places * whole
                order += [places[i] for i in rng.choice(len(places), rest, replace=False)]
            self._epoch = (epoch, [order[i] for i in rng.permutation(len(order))])
        return self._epoch[1][within]

    def _draw(self, example: Example, rng: np.random.Generator) -> _Drawn:
        fewest, most = self.sampling.documents
        size = int(rng.integers(fewest, most + 1))
        positives = {text_key(document): document for document in example.positives}
        if len(positives) > size // 2:
            kept = rng.choice(len(positives), size // 2, replace=False)
            pairs = list(positives.items())
            positives = dict(pairs[i] for i in sorted(kept))
        room = size - len(positives)
        own = room - round(self.sampling.in_batch * room)
        negatives: dict[int, Document] = {}
        known = self._known[_question(example)]
        for document in _in_turn(example.pools, rng) if own else ():
            key = text_key(document)
            if key not in known:
                negatives.setdefault(key, document)
            if len(negatives) == own:
                break
        missing = room - len(negatives) if self.sampling.in_batch else 0
        drop = rng.random() < self.sampling.drop_titles
        return _Drawn(
            example,
            {key: self._perturbed(document, drop, rng) for key, document in positives.items()},
            {key: self._perturbed(document, drop, rng) for key, document in negatives.items()},
            missing,
        )

    def _perturbed(self, document: Document, drop_title: bool, rng: np.random.Generator) -> Document:
        text = document.text
        if rng.random() < self.sampling.shuffle_sentences:
            sentences = [text[start:end] for start, end in sentence_spans(text)]
            text = " ".join(sentences[i] for i in rng.permutation(len(sentences)))
        title = "" if drop_title else document.title
        unchanged = (title, text) == (document.title, document.text)
        return document if unchanged else dataclasses.replace(document, title=title, text=text)

    def _finish(self, drawn: Sequence[_Drawn], place: int, rng: np.random.Generator) -> TrainingList:
        mine = drawn[place]
        example, negatives = mine.example, dict(mine.negatives)
        if mine.missing:
            barred = self._known[_question(example)] | negatives.keys()
            others: dict[int, Document] = {}
            for other in (*drawn[:place], *drawn[place + 1 :]):
                for key, document in itertools.chain(other.positives.items(), other.negatives.items()):
                    if key not in barred:
                        others.setdefault(key, document)
            pairs = list(others.items())
            if pairs:
                picked = rng.choice(len(pairs), min(mine.missing, len(pairs)), replace=False)
                negatives |= (pairs[i] for i in picked)
        if not negatives:
            raise InputError(
                f"{example.source or 'an example'}: {example.query[:80]!r} has no negative, of its own or in its "
                "batch; give a run, or more lists to a batch"
            )
        keys = [*mine.positives, *negatives]
        documents = [*mine.positives.values(), *negatives.values()]
        order = rng.permutation(len(keys))
        teacher = tuple(example.teacher.get(keys[i], math.nan) for i in order)
        return TrainingList(
            query=example.query,
            documents=tuple(documents[i] for i in order),
            positive=tuple(bool(i < len(mine.positives)) for i in order),
            teacher=None if all(map(math.isnan, teacher)) else teacher,
            source=example.source,
        )


def _question(example: Example) -> str:
    return " ".join(example.query.casefold().split())


def _in_turn(pools: Sequence[Sequence[Document]], rng: np.random.Generator) -> Iterator[Document]:
    """One document of each pool after another, each pool in random order, until all are empty."""
    streams = [[pool[i] for i in rng.permutation(len(pool))] for pool in pools]
    streams = [streams[i] for i in rng.permutation(len(streams))]
    for row in itertools.zip_longest(*streams):
        yield from (document for document in row if document is not None)
