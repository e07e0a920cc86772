"""Other people's rerankers, to be measured beside ours: the same candidates, in the same run.

| name | |
|---|---|
| ``cross-encoder:MODEL`` | query and document read together, pair by pair (Nogueira and Cho, 2019) |
| ``late-interaction:MODEL`` | MaxSim over token vectors, as ColBERT has it (Khattab and Zaharia, SIGIR 2020) |

MODEL is a folder, or a name on the hub. Both read every text anew for each query, as a cross-encoder must and late
interaction need not. Both are sentence-transformers', which also loads what PyLate has trained. PyLate itself does not
run beside ours: 1.6 asks for ``sentence-transformers==5.3.0``, and 1.0, which does not, cannot be imported with 6.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from ..errors import InputError, ModelError
from ..rerank import loading as ours
from ..rerank.base import Candidate, Reranker
from ..rerank.ranking import check_request, first_of_each_id, order_by_score
from ..rerank.results import DocumentStates, Ranked, Ranking
from ..rerank.signal import NOTHING

__all__ = ["Baseline", "load_reranker"]


def load_reranker(name: str) -> Reranker:
    """Load a reranker by its name in a system: a baseline, or one of ours.

    Args:
        name: ``cross-encoder:MODEL``, ``late-interaction:MODEL``, or a name for `sightline.load_reranker`.

    Raises:
        ModelError: if the model cannot be loaded, or part of it is untrained.
        InputError: if there is no such reranker.
    """
    kind, _, model = name.partition(":")
    if kind not in _SCORERS:
        return ours.load_reranker(name)
    if not model:
        raise InputError(f"{name!r} names no model; add a name or a path, as in {kind}:PATH")
    return Baseline(name, _SCORERS[kind](model), kind)


class Scorer(Protocol):
    """What a model must do to serve as a baseline."""

    model: Any

    def score(self, query: str, texts: Sequence[str]) -> tuple[list[float], list[int]]:
        """A score for each text, higher is better, and how many of its tokens were not read."""
        ...


class Baseline:
    """Ranks by scores that do not depend on the other candidates; implements `Reranker`.

    There is no attention to tell of: mass is NaN, and evidence cannot be asked for. A document is read as far as the
    model reads; what is cut is counted.

    Args:
        name: as asked for.
        scorer: the model.
        kind: what it is, which stands where a `Ranking` names the layout.
    """

    def __init__(self, name: str, scorer: Scorer, kind: str) -> None:
        self.name = name
        # Not called model: who finds one takes it for a reader of blocks.
        self._scorer, self._kind = scorer, kind

    def rank(
        self,
        query: str,
        documents: Sequence[Candidate],
        top_n: int | None = None,
        *,
        evidence: Literal["sentence", "token"] | None = None,
        states: Sequence[DocumentStates | None] | None = None,
        best_per_id: bool = False,
    ) -> Ranking:
        """See `Reranker.rank`. Kept states are another model's, and not used."""
        started = time.perf_counter()
        blocks = check_request(query, documents, top_n)
        if not query.strip():
            raise InputError(f"the query must be a text that is not empty, not {query!r}")
        if evidence is not None:
            raise InputError(f"{self.name} has no evidence: its scores are not attention")
        # Equal texts get equal scores, to the last bit.
        texts = list(dict.fromkeys(block.contents for block in blocks if not block.empty))
        values, cut = self._scorer.score(query, texts) if texts else ([], [])
        scored = {text: (value, math.nan, over) for text, value, over in zip(texts, values, cut, strict=True)}
        found = [scored.get(block.contents, (NOTHING, 0.0, 0)) for block in blocks]
        unread = [i for i, block in enumerate(blocks) if block.empty]
        order, warnings = order_by_score(blocks, documents, [score for score, _, _ in found], unread)
        if best_per_id:
            order = first_of_each_id(order, blocks)
        model = self._scorer.model
        return Ranking(
            query=query,
            items=tuple(
                Ranked(blocks[i], i, score, mass, cut, None, ())
                for i in order[:top_n]
                for score, mass, cut in [found[i]]
            ),
            total=len(blocks),
            query_tokens=(),
            truncated=sum(over > 0 for _, _, over in found),
            layout=self._kind,
            model=self.name.partition(":")[2],
            revision=str(getattr(model.config, "_commit_hash", None) or ""),
            dtype=str(model.dtype).removeprefix("torch."),
            backend="sentence-transformers",
            seconds=time.perf_counter() - started,
            warnings=tuple(warnings),
        )

    def rank_batch(
        self,
        lists: Sequence[tuple[str, Sequence[Candidate]]],
        top_n: int | None = None,
        *,
        evidence: Literal["sentence", "token"] | None = None,
    ) -> list[Ranking]:
        """See `Reranker.rank_batch`."""
        return [self.rank(query, documents, top_n, evidence=evidence) for query, documents in lists]


class _CrossEncoder:
    """Reads each pair of query and text."""

    def __init__(self, name: str) -> None:
        from sentence_transformers import CrossEncoder

        self.model = _trained(CrossEncoder, name)
        if self.model.num_labels != 1:
            raise ModelError(f"{name} has {self.model.num_labels} labels; a reranker has one, the score")

    def score(self, query: str, texts: Sequence[str]) -> tuple[list[float], list[int]]:
        import torch

        pairs = [(query, text) for text in texts]
        # Logits: a sigmoid in single precision makes ties of what is certain.
        values = self.model.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False)
        tokens = self.model.tokenizer([query] * len(texts), list(texts), truncation=False, verbose=False)["input_ids"]
        return [float(value) for value in values], _cut(tokens, self.model.max_seq_length)


class _LateInteraction:
    """Reads each text alone, and sums the best similarity of each query token."""

    def __init__(self, name: str) -> None:
        from sentence_transformers import MultiVectorEncoder

        self.model = _trained(MultiVectorEncoder, name)

    def score(self, query: str, texts: Sequence[str]) -> tuple[list[float], list[int]]:
        questions = self.model.encode_query([query], show_progress_bar=False)
        documents = self.model.encode_document(list(texts), show_progress_bar=False)
        values = self.model.similarity(questions, documents)[0].tolist()
        tokens = self.model.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        return values, _cut(tokens, getattr(self.model[0], "document_length", None) or self.model.max_seq_length)


_SCORERS: dict[str, Any] = {"cross-encoder": _CrossEncoder, "late-interaction": _LateInteraction}


def _trained(kind: Any, name: str) -> Any:
    """A model of sentence-transformers, all of whose weights are in its files.

    What is not there is drawn at random, with a line in the log: figures of such a model would mean nothing. It shows
    in that two loadings differ.
    """
    import torch

    try:
        with torch.random.fork_rng():
            loaded = []
            for seed in (0, 1):
                torch.manual_seed(seed)
                loaded.append(kind(name))
    except Exception as error:  # the hub's, the files', the model's: each has its own
        raise ModelError(
            f"the weights of {name!r} cannot be loaded as {kind.__name__} ({type(error).__name__}: {error}); give the "
            "path of a folder that has them, or a name on a hub that can be reached"
        ) from error
    model, again = loaded
    there = again.state_dict()
    fresh = [name for name, weight in model.state_dict().items() if not torch.equal(weight, there[name])]
    if fresh:
        raise ModelError(
            f"{name!r} is no trained {kind.__name__}: {', '.join(fresh)} is not among its weights and would be random"
        )
    return model.eval()


def _cut(tokens: Sequence[Sequence[int]], limit: int | None) -> list[int]:
    return [0 if limit is None else max(0, len(ids) - limit) for ids in tokens]
