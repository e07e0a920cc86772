"""The interface of rerankers. What all rerankers share is here; one method, `_score`, makes them differ."""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import final

import numpy as np

from ..documents import Document, Grain
from ..errors import InputError
from ..models.cache import DocumentCache
from ..models.reader import BlockReader, DecoderReading, DocumentStates, StoredBlock, Window
from ..wording import quoted
from .evidence import find_evidence
from .layout import RelevanceSpec
from .ranking import first_of_each_id, order_by_score
from .requests import Candidate, check_request
from .results import NOTHING, Ranked, Ranking

__all__ = ["Request", "Reranker", "Scored", "among"]

logger = logging.getLogger(__name__)

_NOWHERE = (np.zeros((0, 2), dtype=np.int64), np.zeros(0))  # attention on a document that was not read


@dataclass(frozen=True, slots=True)
class Request:
    """A list to score.

    Args:
        query: the text of the query.
        documents: N documents, each with a text or a title. N may be 0.
        states: the states that are kept of each document, or None to read its text: `DocumentStates` for rerankers with
            a ``reader``, `StoredBlock` for those with a ``reading``. Other rerankers get none.
        evidence: whether `Scored.attention` will be used.
        bm25: the BM25 score of each document, by the statistics of its collection. None if there are none.
    """

    query: str
    documents: Sequence[Document]
    states: Sequence[DocumentStates | StoredBlock | None]
    evidence: bool
    bm25: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of a list, by place in `Request.documents`.

    Args:
        scores: float64 (N,), the score of each document; higher is better.
        mass: float64 (N,), each document's share of the attention. None if the scores are not attention.
        shares: float64 (S, N), each signal token's attention on each document. None if the scores are not attention.
        query_tokens: the S signal tokens, as strings.
        truncated: int (N,), the number of tokens at the end of each document that were not read. None if all documents
            were read whole, or the reranker cannot tell.
        unread: the places of the documents in which there was nothing to read. They are ranked last.
        attention: a function that returns the attention on each token of the document at a place: int (T, 2), the
            characters of ``document.contents`` that each token covers, and float (T,). None if the reranker cannot
            tell.
        dtype: the name of the number format that was computed in.
        backend: the library or kernels that computed the scores.
        warnings: what you should know before you rely on the ranking.
    """

    scores: np.ndarray
    mass: np.ndarray | None = None
    shares: np.ndarray | None = None
    query_tokens: tuple[str, ...] = ()
    truncated: Sequence[int] | None = None
    unread: Collection[int] = ()
    attention: Callable[[int], tuple[np.ndarray, np.ndarray]] | None = None
    dtype: str = "float32"
    backend: str = ""
    warnings: tuple[str, ...] = ()


class Reranker(ABC):
    """Ranks lists of documents. To write one, derive from this class, implement `_score` and set the attributes.

    Every reranker whose layout has no ids in the text and restarts positions per block has these properties. Permuting
    the candidates, the batch size and the split over calls change no score (beyond rounding). Duplicates get equal
    scores. Truncation removes document text only, and is counted.

    Attributes:
        name: the name that you asked for, such as ``hf:Qwen/Qwen3-0.6B#icr``.
        layout: the name of the layout. For rerankers without one, their kind, such as ``cross-encoder``.
        model: the name of the model.
        revision: the revision of the model's weights; "" if it is not known.
        readout: the name of the layout's readout, which turns attention or hidden states into scores; "" if there is
            none.
        reader: the model whose token states can be given in the place of texts; None if the reranker takes none.
        reading: how a decoder reads documents, which says whose decoder states can be given in the place of texts; None
            for other rerankers.
        window: an object that tells how much of a text the reranker reads; None if it cannot tell. In that case
            documents are not cut into passages for it, and `Ranked.truncated` is always 0.
        has_evidence: whether it can mark what got the attention.
        list_free: whether a document's score depends only on the query and the document (and on the statistics of BM25,
            if it uses them), so that scores of different lists can be compared. If False, scores are relative to their
            list.
        calibration: the two numbers that turn a score into the probability that the document is relevant; None if the
            reranker has no relevance.
        uses_bm25: whether it uses BM25 scores, so that an index should give it its own.
        concurrent: whether several threads may rank with it at once.
        keepable: whether it reads documents independently of the query and of one another, so that its readings can be
            kept.
        cache: the cache that keeps what was read of documents for later lists; None if nothing is kept. See
            `keep_documents`.
    """

    name: str
    layout: str
    model: str
    revision: str = ""
    readout: str = ""
    reader: BlockReader | None = None
    reading: DecoderReading | None = None
    window: Window | None = None
    has_evidence: bool = False
    list_free: bool = False
    calibration: RelevanceSpec | None = None
    uses_bm25: bool = False
    concurrent: bool = False
    keepable: bool = False
    cache: DocumentCache | None = None

    @abstractmethod
    def _score(self, lists: Sequence[Request]) -> list[Scored]:
        """Score several lists; no list may influence another.

        Raises:
            InputError: if a query or a document cannot be used.
        """

    def keep_documents(self, cache: DocumentCache | None) -> None:
        """Keep what is read of documents, so that a document that comes again is not read again.

        A reranker that is not ``keepable`` keeps nothing.

        Args:
            cache: the cache to keep it in, which several rerankers may share. If None, nothing is kept from now on.
        """
        self.cache = cache if self.keepable else None

    def _readable(self, document: Document) -> bool:
        """Whether there is anything in a document to read; what is not readable is not given to `_score`."""
        return not document.empty

    @final
    def rank(
        self,
        query: str,
        documents: Sequence[Candidate],
        top_n: int | None = None,
        *,
        evidence: Grain | None = None,
        states: Sequence[DocumentStates | StoredBlock | None] | None = None,
        bm25: Sequence[float] | None = None,
        best_per_id: bool = False,
        min_score: float | None = None,
    ) -> Ranking:
        """Rank one list.

        Documents that the model cannot tell apart are tied: they stand in the order of their ids, then of their texts.
        Documents without a text or title are ranked last, with mass 0, and change nothing for the others. The ranking
        warns of both.

        Args:
            query: the text of the query, with at least one token.
            documents: the documents: `Document` objects, strings, or mappings with ``text`` and optionally ``id`` and
                ``title``.
            top_n: the number of documents to return, at least 1. If None, or more than there are, all are returned. All
                are ranked in any case.
            evidence: whether to mark what got the attention in the returned documents, by ``sentence`` or by ``token``.
            states: the token states or decoder states that are kept of each document, or None to read its text.
            bm25: the BM25 score of each document, by the statistics of its collection. If None, words are scored by the
                statistics that ship with Sightline. Rerankers whose ``uses_bm25`` is False ignore it.
            best_per_id: whether documents that share an id are passages of one document, of which only the best is
                returned.
            min_score: the lowest ``relevance``, from 0 to 1, of the documents to return. The ranking may be empty. If
                None, all are returned.

        Raises:
            InputError: if the query, a document or an option cannot be used.
            RankingError: if a score is not finite, which means that weights or kept states are damaged.
        """
        return self.rank_batch(
            [(query, documents)],
            top_n,
            evidence=evidence,
            states=None if states is None else [states],
            bm25=None if bm25 is None else [bm25],
            best_per_id=best_per_id,
            min_score=min_score,
        )[0]

    @final
    def rank_batch(
        self,
        lists: Sequence[tuple[str, Sequence[Candidate]]],
        top_n: int | None = None,
        *,
        evidence: Grain | None = None,
        states: Sequence[Sequence[DocumentStates | StoredBlock | None] | None] | None = None,
        bm25: Sequence[Sequence[float] | None] | None = None,
        best_per_id: bool = False,
        min_score: float | None = None,
    ) -> list[Ranking]:
        """Rank several lists. No list influences another.

        Args:
            lists: a query and its documents for each list.
            top_n: the number of documents to return for each list; see `rank`.
            evidence: whether to mark what got the attention; see `rank`.
            states: the kept states that `rank` takes, for each list. If None, the texts are read.
            bm25: the BM25 scores that `rank` takes, for each list, or None.
            best_per_id: whether documents that share an id are passages of one document; see `rank`.
            min_score: the lowest relevance of the documents to return; see `rank`.
        """
        started = time.perf_counter()
        self.check_min_score(min_score)
        for given, what in ((states, "kept states"), (bm25, "BM25 scores")):
            if given is not None and len(given) != len(lists):
                raise InputError(f"{len(lists)} lists came with {len(given)} lists of {what}; give one for each")
        checked, readable, requests = [], [], []
        for number, (query, documents) in enumerate(lists):
            blocks = check_request(query, documents, top_n, evidence)
            kept = self._checked_states(None if states is None else states[number], len(blocks))
            words = _checked_bm25(None if bm25 is None else bm25[number], blocks)
            places = [i for i, block in enumerate(blocks) if self._readable(block)]
            checked.append(blocks)
            readable.append(places)
            requests.append(
                Request(
                    query,
                    [blocks[i] for i in places],
                    [kept[i] for i in places],
                    evidence is not None,
                    None if words is None else [words[i] for i in places],
                )
            )
        if evidence is not None and not self.has_evidence:
            raise InputError(
                f"{self.name} has no evidence, since its scores are not attention; leave evidence out, or rank with "
                "another reranker"
            )
        scored = self._score(requests)
        shared = (time.perf_counter() - started) / max(1, len(lists))
        rankings = []
        for (query, candidates), blocks, places, part in zip(lists, checked, readable, scored, strict=True):
            began = time.perf_counter()
            ranking = self._ranking(
                query, candidates, blocks, among(part, places, len(blocks)), top_n, evidence, best_per_id, min_score
            )
            rankings.append(replace(ranking, seconds=shared + time.perf_counter() - began))
        return rankings

    @final
    def relevance(self, score: float) -> float | None:
        """Turn a score of this reranker into the probability that the document is relevant; None without calibration.

        Args:
            score: the score of a `Ranked` document. A document in which nothing was read has relevance 0.
        """
        if self.calibration is None:
            return None
        return self.calibration.probability(score) if score > NOTHING else 0.0

    @final
    def check_min_score(self, min_score: float | None) -> None:
        """Refuse a lowest relevance that this reranker cannot apply.

        Raises:
            InputError: if it is not a number from 0 to 1, or the reranker has no relevance.
        """
        if min_score is None:
            return
        if isinstance(min_score, bool) or not isinstance(min_score, int | float) or not 0 <= min_score <= 1:
            raise InputError(f"min_score must be a number from 0 to 1, not {min_score!r}")
        if reason := self.why_no_relevance():
            raise InputError(f"min_score is compared with the relevance, and {self.name} has none: {reason}")

    @final
    def why_no_relevance(self) -> str | None:
        """Say why documents get no `Ranked.relevance`; None if they do."""
        if self.calibration is not None:
            return None
        if self.list_free:
            return "its scores are not calibrated; fit the two numbers with sightline calibrate"
        return "its scores are relative to their list, so no threshold means the same for two lists"

    @final
    def predict(self, pairs: Sequence[tuple[str, Candidate]], *, raw_scores: bool = False) -> np.ndarray:
        """Score pairs of a query and a document, each on its own, as ``CrossEncoder.predict`` does.

        Args:
            pairs: P pairs of a query and a text, or of a query and a `Document` or mapping as in `rank`.
            raw_scores: whether to return `Ranked.score` instead of `Ranked.relevance`.

        Returns:
            float64 (P,), in the order of the pairs.

        Raises:
            InputError: if scores are relative to their list, there is no relevance, or a pair cannot be used.

        Example:
            >>> from sightline import load_reranker
            >>> pairs = [("who purrs", "Cats purr."), ("who purrs", "Iron rusts.")]
            >>> purring, rusting = load_reranker("minilm").predict(pairs).tolist()
            >>> 1 > purring > rusting > 0
            True
        """
        if not self.list_free:
            raise InputError(
                f"{self.name} cannot score pairs: its scores are relative to their list; use rank, or another reranker"
            )
        if not raw_scores and (reason := self.why_no_relevance()):
            raise InputError(f"{self.name} has no relevance: {reason}; or set raw_scores")
        by_query: dict[str, list[int]] = {}
        for place, pair in enumerate(pairs):
            if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
                raise InputError(f"pair {place} must be a query and a document, not {quoted(pair)}")
            by_query.setdefault(pair[0], []).append(place)
        out = np.zeros(len(pairs))
        lists = [(query, [pairs[i][1] for i in places]) for query, places in by_query.items()]
        for places, ranking in zip(by_query.values(), self.rank_batch(lists), strict=True):
            for item in ranking:
                out[places[item.index]] = item.score if raw_scores else item.relevance
        return out

    def _checked_states(
        self, states: Sequence[DocumentStates | StoredBlock | None] | None, count: int
    ) -> Sequence[DocumentStates | StoredBlock | None]:
        if states is None:
            return [None] * count
        taken: type[DocumentStates | StoredBlock] | None = None if self.reader is None else DocumentStates
        if self.reading is not None and self.reading.fingerprint:
            taken = StoredBlock
        if taken is None:
            raise InputError(f"{self.name} reads texts and takes no token states")
        if wrong := [state for state in states if state is not None and not isinstance(state, taken)]:
            raise InputError(f"{self.name} takes kept states as {taken.__name__}, not as {type(wrong[0]).__name__}")
        if len(states) != count:
            raise InputError(f"{count} documents came with {len(states)} kept states; give one, or None, for each")
        return states

    def _ranking(
        self,
        query: str,
        candidates: Sequence[Candidate],
        blocks: Sequence[Document],
        scored: Scored,
        top_n: int | None,
        grain: Grain | None,
        best_per_id: bool,
        min_score: float | None,
    ) -> Ranking:
        scores = scored.scores.tolist()
        order, warnings = order_by_score(blocks, candidates, scores, scored.unread)
        order = first_of_each_id(order, blocks) if best_per_id else order
        warnings = [*scored.warnings, *warnings]
        if min_score is not None:
            relevance = {i: self.relevance(scores[i]) or 0.0 for i in order}
            best = max(relevance.values(), default=0.0)
            if order and best < min_score:
                warnings.append(f"nothing scored above min_score {min_score:g}; the best relevance is {best:.3g}")
            order = [i for i in order if relevance[i] >= min_score]
        for warning in warnings:
            logger.info("%s: %s", query[:80], warning)
        return Ranking(
            query=query,
            items=tuple(_ranked(blocks[i], i, scored, self.relevance(scores[i]), grain) for i in order[:top_n]),
            total=len(blocks),
            query_tokens=scored.query_tokens,
            truncated=sum(cut > 0 for cut in scored.truncated or ()),
            reranker=self.name,
            layout=self.layout,
            model=self.model,
            revision=self.revision,
            dtype=scored.dtype,
            backend=scored.backend,
            seconds=0.0,
            warnings=tuple(warnings),
        )


def _checked_bm25(bm25: Sequence[float] | None, blocks: Sequence[Document]) -> Sequence[float] | None:
    if bm25 is None:
        return None
    if len(bm25) != len(blocks):
        raise InputError(f"{len(blocks)} documents came with {len(bm25)} BM25 scores; give one for each")
    for block, score in zip(blocks, bm25, strict=True):
        if not isinstance(score, Real) or not math.isfinite(score):
            raise InputError(f"document {block.id!r} came with the BM25 score {score!r}; give a finite number")
    return bm25


def _ranked(document: Document, place: int, scored: Scored, relevance: float | None, grain: Grain | None) -> Ranked:
    marks = None
    if grain is not None and scored.attention is not None:
        unread = place in scored.unread
        marks = () if unread else find_evidence(document, *scored.attention(place), grain)
    return Ranked(
        document,
        place,
        float(scored.scores[place]),
        relevance,
        None if scored.mass is None else float(scored.mass[place]),
        0 if scored.truncated is None else scored.truncated[place],
        marks,
        () if scored.shares is None else tuple(scored.shares[:, place].tolist()),
    )


def among(part: Scored, places: list[int], count: int) -> Scored:
    """Place scores of some documents among ``count`` documents. The others were not read and get no mass.

    Args:
        part: the scores of the documents that were read.
        places: their places among all documents, increasing.
        count: the number of all documents.
    """
    if len(places) == count:
        return part
    scores, mass, shares, truncated = np.full(count, NOTHING), None, None, [0] * count
    scores[places] = part.scores
    if part.mass is not None:
        mass = np.zeros(count)
        mass[places] = part.mass
    if part.shares is not None:
        shares = np.zeros((len(part.shares), count))
        shares[:, places] = part.shares
    for place, cut in zip(places, part.truncated or (), strict=False):
        truncated[place] = cut
    back = {place: i for i, place in enumerate(places)}
    attention = part.attention
    return replace(
        part,
        scores=scores,
        mass=mass,
        shares=shares,
        truncated=truncated,
        unread={places[i] for i in part.unread} | (set(range(count)) - set(places)),
        attention=None if attention is None else lambda place: attention(back[place]) if place in back else _NOWHERE,
    )
