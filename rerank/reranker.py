"""The seam for rerankers, and what they return."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload

from ..documents import Document
from ..errors import InputError

if TYPE_CHECKING:
    from ..kernels import Keys
    from .layout import Layout

__all__ = [
    "Candidate",
    "DocumentStates",
    "Evidence",
    "Ranked",
    "Ranking",
    "Reranker",
    "as_documents",
    "load_reranker",
]

Candidate = Document | str | Mapping[str, Any]
_SHIPPED = {"sightline-mini": Path(__file__).parents[1] / "data" / "sightline_mini"}


@dataclass(frozen=True, slots=True)
class Evidence:
    """A span that got attention: characters ``[start, end)`` of the document's ``field``, their text, and the mass."""

    start: int
    end: int
    mass: float
    text: str
    field: Literal["text", "title"] = "text"


@dataclass(frozen=True, slots=True)
class DocumentStates:
    """A document's token states, kept from an earlier reading.

    Args:
        keys: (T, D).
        truncated: tokens of the text that were not read.
    """

    keys: Keys
    truncated: int


@dataclass(frozen=True, slots=True)
class Ranked:
    """One document of a ranking.

    Args:
        document: the document.
        index: its place in the list that was ranked.
        score: higher is better. Relative to its list: a score says nothing beside a score of another list.
        mass: share of the query's attention that the document got, a mean over signal tokens; over a list it sums to 1.
        truncated: tokens at its end that the model did not read.
        evidence: spans with their mass, if asked for.
        token_mass: attention mass by signal token, in the order of `Ranking.query_tokens`.
    """

    document: Document
    index: int
    score: float
    mass: float
    truncated: int
    evidence: tuple[Evidence, ...] | None
    token_mass: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Ranking(Sequence[Ranked]):
    """A ranked list, best first: a sequence of `Ranked`, cut to ``top_n`` where that was asked for.

    Args:
        query: the query.
        items: the documents, best first.
        total: how many documents were ranked.
        query_tokens: the signal tokens.
        truncated: how many of the ranked documents were not read to their end.
        layout: name of the layout.
        model: name of the model.
        revision: of the model's weights.
        dtype: that the token states were computed with, or float16 or int8 where they were kept in it.
        backend: the kernels' backend.
        seconds: wall time.
        warnings: what the reader of this ranking should know.
    """

    query: str
    items: tuple[Ranked, ...]
    total: int
    query_tokens: tuple[str, ...]
    truncated: int
    layout: str
    model: str
    revision: str
    dtype: str
    backend: str
    seconds: float
    warnings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Ranked: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Ranked, ...]: ...

    def __getitem__(self, index: int | slice) -> Ranked | tuple[Ranked, ...]:
        return self.items[index]

    def __iter__(self) -> Iterator[Ranked]:
        return iter(self.items)


class Reranker(Protocol):
    """What a reranker must do.

    For every reranker whose layout has no ids in the text and restarts positions per block: permuting the candidates
    changes no score, nor do batch size and the split over calls (beyond rounding), duplicates get equal scores, and
    truncation takes document text only and is counted.

    A reranker that is served, or ranks documents longer than it reads, also has ``reads``: its ``room`` is how many
    tokens of a document it reads, and ``token_offsets(text)`` says which characters each token of a text covers.

    Calling it, ``Reranker("Qwen/Qwen3-0.6B", layout="qrhead")``, is `load_reranker`.

    Attributes:
        name: as asked for.
    """

    name: str

    def __new__(cls, *args: Any, **options: Any) -> Any:
        """See `load_reranker`; classes that derive from this one are made as usual."""
        return load_reranker(*args, **options) if cls is Reranker else super().__new__(cls)

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
        """Rank one list.

        Args:
            query: a text with at least one token.
            documents: `Document`, plain strings, or mappings with ``text`` and optionally ``id`` and ``title``.
            top_n: how many to return; None for all. All are ranked either way.
            evidence: mark what got the attention in the returned documents.
            states: for each document its kept token states, or None to read its text.
            best_per_id: documents that share an id are passages of one document: return the best of each.

        Raises:
            InputError: if the query or a document cannot be used.
            RankingError: if the scores would mean nothing (NaN, or no signal at all).
        """
        ...

    def rank_batch(
        self,
        lists: Sequence[tuple[str, Sequence[Candidate]]],
        top_n: int | None = None,
        *,
        evidence: Literal["sentence", "token"] | None = None,
    ) -> list[Ranking]:
        """Rank several lists; no list ever influences another."""
        ...


def as_documents(candidates: Sequence[Candidate]) -> list[Document]:
    """Candidates as documents; those without an id get their place in the list as id.

    Raises:
        InputError: naming the place of a candidate that cannot be used.
    """
    if isinstance(candidates, str | Document | Mapping) or not isinstance(candidates, Collection):
        raise InputError(f"documents must be a list, not a single {type(candidates).__name__}")
    documents = []
    for place, candidate in enumerate(candidates):
        try:
            if isinstance(candidate, Document):
                documents.append(candidate)
            elif isinstance(candidate, str):
                documents.append(Document(str(place), candidate))
            elif isinstance(candidate, Mapping):
                if "text" not in candidate:
                    raise InputError(f"has no 'text'; there are: {', '.join(map(repr, candidate)) or 'no fields'}")
                fields = {"id": str(place), **candidate}
                documents.append(Document(**{name: fields[name] for name in ("id", "text", "title") if name in fields}))
            else:
                raise InputError(
                    f"a candidate must be a Document, a string or a mapping, not {type(candidate).__name__}"
                )
        except InputError as error:
            raise InputError(f"candidate {place}: {error}") from error
    return documents


def load_reranker(name: str = "minilm", /, *, layout: Layout | str | None = None, **options: Any) -> Reranker:
    """Load a reranker.

    Args:
        name: a layout of the embedded default, ``minilm`` (the default), ``minilm-mass`` or ``minilm-maxsim``, or the
            path of its YAML file; ``sightline-mini``, which learnt to read it; a folder that ``sightline train`` wrote;
            or a decoder model, ``hf:`` and its name on the hub or its folder. With ``layout`` the ``hf:`` may be left
            out. ``hf:MODEL#LAYOUT`` names both.
        layout: for decoder models: ``icr`` (the default, training-free), ``icr-block``, ``blockrank``,
            ``blockrank-cached``, ``qrhead``, ``core``, the path of a YAML file, or a `Layout`.
        options: ``dtype``, see `MiniLMReranker`; for decoder models those of `DecoderReranker`; what is left are fields
            of the layout to replace, such as ``scale=10.0``.

    Raises:
        InputError: if there is no such layout, or an option is not one.
        ModelError: if the model cannot be loaded, or the layout does not fit it.

    Example:
        >>> load_reranker("hf:Qwen/Qwen3-0.6B", layout="icr", dtype="bfloat16")  # doctest: +SKIP
    """
    from .layout import load_layout

    if not isinstance(name, str):
        raise InputError(f"a reranker is loaded by its name, not by {type(name).__name__}")
    if not name.startswith("hf:") and layout is None:
        from .minilm import MiniLMReranker

        folder = _SHIPPED.get(name, Path(name))
        if (folder / "layout.yaml").is_file() and load_layout(folder / "layout.yaml").model == "minilm":
            return MiniLMReranker.load(folder, **options)
        if not folder.is_dir():
            dtype = options.pop("dtype", None)
            return MiniLMReranker(load_layout(name, **options), dtype=dtype)
    import inspect

    from .decoder.reranker import DecoderReranker, saved_layout

    own = set(inspect.signature(DecoderReranker).parameters) - {"model", "layout", "loading"}
    own |= {"revision", "dtype", "device", "device_map", "quantization_config"}
    changes = {key: options.pop(key) for key in list(options) if key not in own}
    model, _, named = name.removeprefix("hf:").partition("#")
    layout = layout or named or None
    if layout is None:
        layout = saved_layout(model)
    return DecoderReranker(model, load_layout(layout, **changes), **options)
