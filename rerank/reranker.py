"""The seam for rerankers, and what they return."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload

from ..documents import Document
from ..errors import InputError, ModelError, UnknownNameError
from ..wording import did_you_mean, quoted

if TYPE_CHECKING:
    from ..kernels import Keys
    from .layout import Layout

__all__ = [
    "SHIPPED",
    "Candidate",
    "DocumentStates",
    "Evidence",
    "Ranked",
    "Ranking",
    "Reranker",
    "as_documents",
    "as_reranker",
    "load_reranker",
    "looks_local",
]

Candidate = Document | str | Mapping[str, Any]
SHIPPED = {"sightline-mini": Path(__file__).parents[1] / "data" / "sightline_mini"}


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

        Documents that the model cannot tell apart are tied: they stand in the order of their ids, then of their texts.
        Documents without a text or title are ranked last, with mass 0, and change nothing for the others. The ranking
        warns of both.

        Args:
            query: a text with at least one token.
            documents: `Document`, plain strings, or mappings with ``text`` and optionally ``id`` and ``title``.
            top_n: how many to return, at least 1; None, or more than there are, for all. All are ranked either way.
            evidence: mark what got the attention in the returned documents.
            states: for each document its kept token states, or None to read its text.
            best_per_id: documents that share an id are passages of one document: return the best of each.

        Raises:
            InputError: if the query or a document cannot be used.
            RankingError: if a score is not finite: weights or kept states are damaged.
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
    """Candidates as documents; those without an id get their place in the list, from 0, or a variant that is free.

    In a mapping, a ``text`` or ``title`` that is None or NaN counts as empty, and an ``id`` that is None as absent.

    Raises:
        InputError: naming the place of a candidate that cannot be used.
    """
    if isinstance(candidates, str | Document | Mapping) or not isinstance(candidates, Collection):
        raise InputError(f"documents must be a list, not a single {type(candidates).__name__}")
    documents = []
    given = {id for candidate in candidates if (id := _id(candidate)) is not None}
    for place, candidate in enumerate(candidates):
        try:
            if isinstance(candidate, Document):
                documents.append(candidate)
            elif isinstance(candidate, str):
                documents.append(Document(_free_id(place, given), candidate))
            elif isinstance(candidate, Mapping):
                if "text" not in candidate:
                    raise InputError(f"has no 'text'; there are: {', '.join(map(repr, candidate)) or 'no fields'}")
                id = _free_id(place, given) if _id(candidate) is None else candidate["id"]
                documents.append(Document(id, _text(candidate["text"]), _text(candidate.get("title"))))
            else:
                raise InputError(
                    f"a candidate must be a Document, a string or a mapping, not {type(candidate).__name__}"
                )
        except InputError as error:
            raise InputError(f"candidate {place}: {error}") from error
    return documents


def _id(candidate: object) -> Any:
    if isinstance(candidate, Mapping):
        return candidate.get("id")
    return candidate.id if isinstance(candidate, Document) else None


def _free_id(place: int, given: Collection[Any]) -> str:
    name = str(place)
    while name in given:
        name += "'"
    return name


def _text(value: Any) -> Any:
    """A field's value; None and NaN, with which tables fill what is missing, are empty."""
    return "" if value is None or (isinstance(value, float) and value != value) else value


def as_reranker(reranker: str | os.PathLike[str] | Reranker) -> Reranker:
    """A reranker itself, or the one that `load_reranker` loads by this name.

    Raises:
        InputError: if it is neither.
    """
    if isinstance(reranker, str | os.PathLike):
        return load_reranker(reranker)
    if not callable(getattr(reranker, "rank", None)):
        raise InputError(f"reranker must be a name for load_reranker, or a reranker, not {quoted(reranker)}")
    return reranker


def load_reranker(
    name: str | os.PathLike[str] = "minilm", /, *, layout: Layout | str | None = None, **options: Any
) -> Reranker:
    """Load a reranker.

    Args:
        name: a text, or a path: a layout of the embedded default, ``minilm`` (the default), ``minilm-mass`` or
            ``minilm-maxsim``, or the path of its YAML file; ``sightline-mini``, whose readout is trained; a folder that
            ``sightline train`` wrote; or a decoder model, ``hf:`` and its name on the hub or its folder.
            ``hf:MODEL#LAYOUT`` also names the layout. If you give ``layout``, you may leave the ``hf:`` out.
        layout: for decoder models: ``icr`` (the default, training-free), ``icr-block``, ``blockrank``,
            ``blockrank-cached``, ``qrhead``, ``core``, the path of a YAML file, or a `Layout`.
        options: ``dtype`` and ``device``, see `MiniLMReranker`; for decoder models those of `DecoderReranker`. All
            others replace fields of the layout, such as ``scale=10.0``.

    Raises:
        UnknownNameError: if there is no such reranker.
        InputError: if there is no such layout, the layout is for another kind of model, or an option is not one.
        ModelError: if the model cannot be loaded, or the layout does not fit it.

    Example:
        >>> load_reranker("hf:Qwen/Qwen3-0.6B", layout="icr", dtype="bfloat16")  # doctest: +SKIP
    """
    if isinstance(name, os.PathLike):
        name = os.fspath(name)
    if not isinstance(name, str):
        raise InputError(f"a reranker is loaded by its name, not by {type(name).__name__}")
    from .layout import check_model, load_layout, shipped_layouts
    from .minilm import MiniLMReranker

    if name.startswith("hf:"):
        return _load_decoder(name.removeprefix("hf:"), layout, options)
    if name in shipped_layouts() or name.endswith((".yaml", ".yml")):
        if layout is not None:
            check_model(load_layout(layout), "minilm")
            raise InputError(f"{name!r} is a layout itself; leave layout={layout!r} out")
        loading = {key: options.pop(key) for key in ("dtype", "device") if key in options}
        found = load_layout(name, **options)
        check_model(found, "minilm", name)
        return MiniLMReranker(found, **loading)
    folder = SHIPPED.get(name, Path(name))
    is_folder = bool(name) and os.path.isdir(folder)  # noqa: PTH112 - Path.is_dir raises at long names
    if is_folder and _kind(folder) == "minilm":
        if layout is not None:
            raise InputError(f"{name!r} brings its own layout; leave layout={layout!r} out")
        return MiniLMReranker.load(folder, **options)
    if is_folder or (name and layout is not None):
        return _load_decoder(name, layout, options)
    raise UnknownNameError(_unknown(name))


def _load_decoder(model: str, layout: Layout | str | None, options: dict[str, Any]) -> Reranker:
    import inspect

    from .decoder.reranker import DecoderReranker, saved_layout
    from .layout import load_layout

    own = set(inspect.signature(DecoderReranker).parameters) - {"model", "layout", "loading"}
    own |= {"revision", "dtype", "device", "device_map", "quantization_config"}
    changes = {key: options.pop(key) for key in list(options) if key not in own}
    model, _, named = model.partition("#")
    if not model:
        raise InputError("hf: names no model; add its name on the hub or its folder, as in hf:Qwen/Qwen3-0.6B")
    return DecoderReranker(model, load_layout(layout or named or saved_layout(model), **changes), **options)


def _kind(folder: Path) -> str:
    """The kind of reranker that is in a folder: ``minilm`` or ``decoder``."""
    from .layout import load_layout

    if (folder / "layout.yaml").is_file():
        return load_layout(folder / "layout.yaml").model
    if (folder / "config.json").is_file():
        return "decoder"
    raise ModelError(
        f"{folder}: this folder holds no reranker: there is no layout.yaml, which sightline train writes, and no "
        "config.json of a decoder model"
    )


def _unknown(name: str) -> str:
    """Why no reranker is called so, and what to write instead."""
    from .layout import shipped_layouts

    layouts = shipped_layouts()
    kind, _, rest = name.partition(":")
    model = name.partition("#")[0]
    if kind in ("cross-encoder", "late-interaction") and rest:
        return f"{name!r} can only be measured, by sightline eval; it is not a reranker that can be loaded to rank with"
    if os.path.isfile(name):  # noqa: PTH113 - Path.is_file raises at long names
        return f"{name!r} is a file; give the folder that it is in, or a layout's file that ends in .yaml"
    if looks_local(model):
        return f"{name!r}: no such folder"
    if "/" in model:
        return f"{name!r}: no such folder; if you mean a decoder model of the hub, write 'hf:{name}'"
    if model in layouts:
        return f"{name!r}: {model!r} is a layout itself, and takes none; for a decoder model write hf:MODEL#LAYOUT"
    ours = [*(one for one, model in layouts.items() if model == "minilm"), *SHIPPED]
    decoders = ", ".join(one for one, model in layouts.items() if model == "decoder")
    near = did_you_mean(name, [*ours, *layouts]).removesuffix("?")
    return (
        f"no reranker {quoted(name)}{near}; there are {', '.join(ours)}; a folder "
        f"that sightline train wrote; a .yaml file with a layout; and hf:MODEL or hf:MODEL#LAYOUT for decoder models, "
        f"where LAYOUT is a .yaml file or one of {decoders}"
    )


def looks_local(name: str) -> bool:
    """Whether a model's name can only be a path: the hub's have one slash at most, and begin with a letter or digit."""
    return name.startswith(("/", ".", "~")) or name.endswith("/") or name.count("/") > 1 or "\\" in name
