"""Layouts: how texts become blocks, what may attend to what, and how attention becomes a score, as data."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, NoReturn

from ..errors import DataError, InputError, ModelError
from ..names import LAYOUTS, layout_names
from ..parsing import as_type, load_yaml
from ..wording import did_you_mean, listed, quoted

__all__ = [
    "FusionWeights",
    "Kind",
    "Layout",
    "PromptSpec",
    "ReadoutSpec",
    "RelevanceSpec",
    "check_kind",
    "layout_fields",
    "load_layout",
    "shipped_layouts",
]

Kind = Literal["late-interaction", "decoder"]

_HEAD = re.compile(r"\d+-\d+")
_DETECTED = re.compile(r"(qr|core|ndcg):[1-9]\d*")
_LAST = re.compile(r"last:[1-9]\d*")
_STRIDE = re.compile(r"stride:[1-9]\d*")
_MARKER = re.compile(r"marker:.+")
_HIDDEN = ("yes_no", "cosine", "id_logits")  # readouts of hidden states; the others read attention
# Fields that change which heads would be found; the others read the same attention in another way.
_FINGERPRINTED = (
    "block instruction query chat answer completion ids mask positions query_position order signal_tokens "
    "max_block_tokens calibration outliers"
).split()
# Later fields of that kind; at their default they leave the fingerprint as it was without them.
_FINGERPRINTED_LATER = ("separator", "block_end", "span", "visible_tokens")
# What only the attention of a decoder has: other keys, a null query, layers, heads.
_ATTENTION_ONLY = ("normalisation", "length", "calibration", "layers", "heads", "ssmax")


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionWeights:
    """The weights of the sum that is the score of the readout ``fused``; see `sightline.rerank.signals.Signals`.

    Args:
        log_mass: the weight of the log mass.
        maxsim: the weight of MaxSim.
        cosine: the weight of the document tokens' mean cosine with the query.
        bm25: the weight of BM25.
        length: the weight of the logarithm of the document's number of tokens.

    Raises:
        InputError: if a weight is not finite, or all are zero.
    """

    log_mass: float = 0.0
    maxsim: float = 0.0
    cosine: float = 0.0
    bm25: float = 0.0
    length: float = 0.0

    def __post_init__(self) -> None:
        values = dataclasses.astuple(self)
        if not all(map(math.isfinite, values)) or not any(values):
            _refuse("weights must be finite numbers, not all of them zero")


@dataclass(frozen=True, slots=True, kw_only=True)
class RelevanceSpec:
    """The curve from a score to the probability of relevance: ``1 / (1 + exp(-(slope * score + offset)))``.

    This is Platt scaling (Platt, 1999). `sightline calibrate` fits the two numbers.

    Args:
        slope: the slope of the curve, above 0, so that the order by relevance is the order by score.
        offset: the offset of the curve, any number.

    Raises:
        InputError: if a number is out of range.

    Example:
        >>> RelevanceSpec(slope=1.0, offset=-2.0).probability(2.0)
        0.5
    """

    slope: float
    offset: float

    def __post_init__(self) -> None:
        if not 0 < self.slope < math.inf:
            _refuse(f"slope must be above 0, not {quoted(self.slope)}")
        if not math.isfinite(self.offset):
            _refuse(f"offset must be a number, not {quoted(self.offset)}")

    def probability(self, score: float) -> float:
        """Return the probability of relevance, from 0 to 1."""
        return 1 / (1 + math.exp(min(-(self.slope * score + self.offset), 700.0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadoutSpec:
    """What is read of a model, the attention of signal tokens or hidden states, and how it becomes a score.

    Args:
        readout: the kind of readout. Readouts of attention are ``mass``, the mean over signal tokens and heads of the
            attention on the block; ``log_mass``, the mean of its logarithm, so that every signal token must find
            something, without the term that all documents of the list share; ``maxsim``, the mean of the largest logit;
            ``fused``, a weighted sum of these and other signals (`FusionWeights`); and ``learnt``, which uses weights
            beside the layout (`LearntReadout`). Readouts of hidden states after a decoder's last layer are ``yes_no``,
            the log-odds of the first of ``answers`` against the second, predicted at the end of each block (Nogueira et
            al., 2020; Qwen3-Reranker, 2025); ``cosine``, the cosine of each block's state with the query's, both
            through a ``projector`` (jina-reranker-v3, 2025); and ``id_logits``, the logit of each candidate's id as the
            first token of the answer (FIRST, 2024).
        scale: the factor on logits before the softmax that is read, an inverse temperature. The logits of token states
            are cosines; a decoder has its own. With a readout of hidden states, the factor on the score.
        normalisation: the keys over which a signal token's attention sums to one. ``documents``: all tokens of all
            candidates, and nothing else (BlockRank, 2025, section 3.3); ``all_keys``: everything that it sees (ICR,
            QRHead).
        length: how a block's length counts. ``sum``: the attention on all of its tokens; ``mean``: the attention per
            token, so that long documents gain nothing.
        calibration: ``null_query`` subtracts the attention that the query "N/A" pays, token by token (ICR, section
            3.2), which shares the reading of the documents; ``none`` does not.
        outliers: with calibration, the number of standard deviations below the mean of their document beyond which
            tokens are left out. If None, all are kept.
        ssmax: if above 0, logits are multiplied by ``ssmax * ln(number of documents)``, against dilution in long lists
            (Scalable-Softmax, Nakanishi 2025; BlockSearch, 2026).
        layers: the layers whose attention is read: ``all``; one by its number from 0; or a fraction of the model's
            layers. Layers above are neither loaded nor computed.
        heads: the heads that are read: ``all``; a list of ``layer-head``; or those that `sightline heads` found, such
            as ``qr:16``. Lists and found heads make ``layers`` superfluous.
        weights: the weights of ``fused``; None for other readouts.
        answers: the tokens that ``yes_no`` compares, such as ``[yes, no]``. If there is only one, the score is its
            logit.
        projector: the names of the weights, in the model's safetensors files, that ``cosine`` multiplies states by,
            with a ReLU between two of them. If empty, the states are compared as they are.

    Raises:
        InputError: if a field has a value that it cannot have, or two fields do not go together.
    """

    readout: Literal["mass", "log_mass", "maxsim", "fused", "learnt", "yes_no", "cosine", "id_logits"]
    scale: float
    normalisation: Literal["documents", "all_keys"] = "documents"
    length: Literal["sum", "mean"] = "sum"
    calibration: Literal["none", "null_query"] = "none"
    outliers: float | None = None
    ssmax: float = 0.0
    layers: str | int | float = "all"
    heads: str | tuple[str, ...] = "all"
    weights: FusionWeights | None = None
    answers: tuple[str, ...] = ()
    projector: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.scale < 1000:
            _refuse(f"scale must be a number above 0 and below 1000, not {quoted(self.scale)}")
        if not 0 <= self.ssmax < 1000:
            _refuse(f"ssmax must be a number from 0 to below 1000, not {quoted(self.ssmax)}")
        if self.hidden:
            self.require_defaults(f"with readout {self.readout!r}, which reads hidden states")
        if self.outliers is not None and not 0 < self.outliers < math.inf:
            _refuse(f"outliers must be above 0, or null, not {quoted(self.outliers)}")
        if self.outliers is not None and self.calibration == "none":
            _refuse("outliers need a calibration, and it is 'none'")
        if self.calibration != "none" and (self.readout, self.normalisation) != ("mass", "all_keys"):
            _refuse("calibration compares attention, so it needs readout 'mass' and normalisation 'all_keys'")
        if (self.readout == "fused") != (self.weights is not None):
            _refuse("weights go with readout 'fused', and only with it")
        if (self.readout == "yes_no") != (len(self.answers) in (1, 2)) or len(set(self.answers)) < len(self.answers):
            _refuse("answers goes with readout 'yes_no', which takes one or two different ones")
        if self.projector and self.readout != "cosine":
            _refuse("projector goes with readout 'cosine'")
        if self.readout == "maxsim" and self.length == "mean":
            _refuse("maxsim takes the largest logit of a block, which no length dilutes")
        by_number = isinstance(self.layers, int) and self.layers >= 0
        by_fraction = isinstance(self.layers, float) and 0 < self.layers < 1
        if self.layers != "all" and not by_number and not by_fraction:
            _refuse(f"layers must be 'all', a number from 0, or a fraction between 0 and 1, not {quoted(self.layers)}")
        if isinstance(self.heads, str):
            if self.heads != "all" and not _DETECTED.fullmatch(self.heads):
                _refuse(f"heads must be 'all', such as 'qr:16', or a list of layer-head, not {quoted(self.heads)}")
        elif not self.heads or not all(map(_HEAD.fullmatch, self.heads)):
            _refuse(f"heads must be a list such as ['14-22', '13-16'], not {quoted(self.heads)}")
        elif len(set(self.heads)) < len(self.heads):
            _refuse("heads names a head twice")

    @property
    def hidden(self) -> bool:
        """Whether it reads hidden states after a decoder's last layer rather than attention."""
        return self.readout in _HIDDEN

    def require_defaults(self, where: str) -> None:
        """Refuse fields that only the attention of a decoder has.

        Args:
            where: where there is no such attention, for the message.

        Raises:
            InputError: if such a field is set. The error names the field.
        """
        for field in _ATTENTION_ONLY:
            default = _default(ReadoutSpec, field)
            if (value := getattr(self, field)) != default:
                _refuse(f"{field} must be {quoted(default)} {where}, not {quoted(value)}")

    def signal_layers(self, count: int) -> list[int]:
        """Return the layers whose attention is read, in a model with ``count`` layers.

        Raises:
            ModelError: if the model has no such layer.
        """
        if self.layers == "all" and isinstance(self.heads, str):
            return list(range(count))
        if isinstance(self.heads, tuple):
            layers = sorted({layer for layer, _ in self.selected_heads})
        else:
            layers = [int(self.layers * count) if isinstance(self.layers, float) else int(self.layers)]
        if layers[-1] >= count:
            raise ModelError(f"the layout reads layer {layers[-1]}, but the model has layers 0 to {count - 1}")
        return layers

    @property
    def selected_heads(self) -> list[tuple[int, int]]:
        """The (layer, head) of each head that is listed; empty if all are read."""
        if isinstance(self.heads, str):
            return []
        return [(int(layer), int(head)) for layer, head in (pair.split("-") for pair in self.heads)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSpec:
    """How a query and its documents become one text for a decoder, block by block.

    Texts are templates: ``{query}`` in ``instruction`` and ``query``; ``{title}``, ``{text}`` and ``{id}`` in
    ``block``; and ``{count}``, the number of documents, in ``instruction`` and ``query``. If a document has no title,
    ``{title}`` is removed with the blank after it. With the mask ``causal`` the prompt is tokenised as a whole, with
    ``block`` each block is tokenised by itself.

    Args:
        block: the text of a document's block.
        separator: the text before each block and before the query block. It is read, but attention on it counts for no
            document, and none of its tokens is a signal token.
        block_end: the end of a block, tokenised by itself, for models that were trained on pieces of text whose tokens
            were put together. For the mask ``block`` only.
        span: the tokens of a block on which attention counts as attention on the document: ``block``, all of the filled
            template; ``contents``, title and text only. In either case, all tokens are read.
        mask: what a document sees. ``block``: itself and the instruction; ``causal``: also all documents before it. The
            query block sees everything.
        positions: how tokens are numbered. ``restart``: every document counts from the end of the instruction, so that
            its place leaves no trace; ``sequential``: in the order in which they stand.
        signal_tokens: the tokens of the query block whose attention or state is read: ``query``, those of the query's
            text; ``prompt``, those up to the end of that text; ``block``, the whole query block, chat suffix included;
            ``last:N``, its last N tokens; ``marker:TOKEN``, such as ``marker:<|rerank_token|>``, that token.
        document_token: the token of each document's block whose state is read, if states are: ``last:1`` or a
            ``marker:TOKEN``.
        instruction: the text before the documents, which all of them see. If it contains ``{query}``, the documents see
            the query and cannot be kept for other queries.
        query: the text of the query block. Empty if the instruction has the query and nothing is read after the
            documents.
        chat: whether to wrap the prompt in the model's chat template, as one turn of the user.
        answer: the beginning of the model's answer.
        completion: more of the answer, tokenised by itself.
        target: the rest of the answer, for models that learn to write it. ``{ids}`` stands for the ids of the documents
            that answer the query, with commas between them. It is used in training only.
        ids: what ``{id}`` stands for: the place in the list, ``from_0`` or ``from_1``, or as ``letters`` from A, or a
            ``random`` number of four digits.
        query_position: with ``restart``, the position at which the query block begins. It is fixed, so that it tells
            nothing about the list. If None, the end of a block of ``max_block_tokens``. In a model with fewer
            positions, the query block begins ``max_block_tokens`` before their end.
        order: the order of the documents: ``given`` (best first), or ``reversed``, so that the best is next to the
            query.
        shuffles: if above 0, the number of shuffles of the list over which scores are averaged. They are the same for
            every given order (permutation self-consistency, Tang et al. 2024).
        max_documents: the largest number of documents in one context. Longer lists are read in parts. If None, there is
            no limit.
        visible_tokens: the tokens of a document that the query block sees: ``all``, or ``stride:N``, the last of every
            N tokens of its block. The others are read with the document and then forgotten (CompRank, 2026).

    Raises:
        InputError: if a field has a value that it cannot have, or two fields do not go together.
    """

    block: str
    mask: Literal["block", "causal"]
    positions: Literal["restart", "sequential"]
    signal_tokens: str = ""
    document_token: str = "last:1"
    separator: str = ""
    block_end: str = ""
    span: Literal["block", "contents"] = "block"
    instruction: str = ""
    query: str = "{query}"
    chat: bool = False
    answer: str = ""
    completion: str = ""
    target: str = ""
    ids: Literal["none", "from_0", "from_1", "letters", "random"] = "none"
    query_position: int | None = None
    order: Literal["given", "reversed"] = "given"
    shuffles: int = 0
    max_documents: int | None = None
    visible_tokens: str = "all"

    def __post_init__(self) -> None:
        _check_places("block", self.block, {"title": 1, "text": 1, "id": None}, needed="text")
        _check_places("separator", self.separator, {})
        _check_places("block_end", self.block_end, {})
        if self.block_end and self.mask != "block":
            _refuse("block_end is tokenised by itself, and with mask 'causal' nothing is: write it into block")
        _check_places("instruction", self.instruction, {"query": None, "count": None})
        _check_places("query", self.query, {"query": 1, "count": None}, needed="query" if self.query else None)
        if not self.query and "{query}" not in self.instruction:
            _refuse("query is empty, so the instruction needs the place {query}")
        if not self.query and (self.chat or self.answer or self.completion):
            _refuse("chat, answer and completion end the query block, and there is none: write them into block")
        _check_places("target", self.target, {"ids": None}, needed="ids" if self.target else None)
        if ("{id}" in self.block) != (self.ids != "none"):
            _refuse(f"ids is {quoted(self.ids)} but block has {'' if '{id}' in self.block else 'no '}place for an id")
        if bool(self.signal_tokens) != bool(self.query):
            _refuse("signal_tokens are tokens of the query block: give both, or leave both empty")
        by_place = not self.query or _LAST.fullmatch(self.signal_tokens) or _MARKER.fullmatch(self.signal_tokens)
        if self.signal_tokens not in ("query", "prompt", "block") and not by_place:
            _refuse(
                f"signal_tokens must be query, prompt, block, such as last:2, or such as marker:<|rerank_token|>, not "
                f"{quoted(self.signal_tokens)}"
            )
        if self.visible_tokens != "all" and not _STRIDE.fullmatch(self.visible_tokens):
            _refuse(f"visible_tokens must be 'all' or such as stride:10, not {quoted(self.visible_tokens)}")
        if self.visible_tokens != "all" and (self.mask, self.positions) != ("block", "restart"):
            _refuse("visible_tokens are for documents that are read apart: mask 'block', positions 'restart'")
        if self.document_token != "last:1" and not _MARKER.fullmatch(self.document_token):
            _refuse(f"document_token must be last:1 or such as marker:<|end|>, not {quoted(self.document_token)}")
        if self.max_documents is not None and not 2 <= self.max_documents <= 10_000:
            _refuse(f"max_documents must be from 2 to 10000, or null, not {quoted(self.max_documents)}")
        if self.query_position is not None and (self.query_position < 1 or self.positions != "restart"):
            _refuse(f"query_position is for positions that restart, and above 0; it is {quoted(self.query_position)}")
        if not 0 <= self.shuffles <= 1000:
            _refuse(f"shuffles must be from 0 to 1000, not {quoted(self.shuffles)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A validated layout. Every reranker that reads attention is a layout over one engine.

    Without a prompt, a block reader reads every text alone, and the readout compares the token states of query and
    documents (late interaction). With a prompt, a decoder reads query and documents in one context.

    Args:
        name: the name by which you ask for the layout; one word.
        max_block_tokens: the number of tokens that are read of a document's block, template and special tokens
            included. The rest of its text is cut off and counted. 0 reads all that the reader can read, without a
            prompt only.
        readout: how attention or hidden states become a score.
        reader: without a prompt, the name of the model that reads the texts, for
            `sightline.models.loading.load_reader`.
        prompt: how texts become a decoder's prompt. If None, texts are read alone.
        documents_see_query: without a prompt, whether documents are read after the query. They are then read anew for
            each query, and their states cannot be kept. In a prompt, put ``{query}`` into the ``instruction`` instead.
        relevance: the curve from scores to probabilities of relevance. None if it is not known, or if scores are
            relative to their list.

    Raises:
        InputError: if a field has a value that it cannot have, or two fields do not go together.

    Example:
        >>> layout = load_layout("minilm")
        >>> layout.kind, layout.readout.readout, layout.readout.scale
        ('late-interaction', 'fused', 20.0)
        >>> load_layout("icr").order_free
        False
    """

    name: str
    max_block_tokens: int
    readout: ReadoutSpec
    reader: str = "minilm"
    prompt: PromptSpec | None = None
    documents_see_query: bool = False
    relevance: RelevanceSpec | None = None

    def __post_init__(self) -> None:
        # The name becomes the tag of TREC runs, which blanks would break.
        if self.name.split() != [self.name]:
            _refuse("name must be a word without blanks")
        limit = 512 if self.prompt is None and self.reader == "minilm" else 1_000_000
        if not 3 <= self.max_block_tokens <= limit and (self.max_block_tokens or self.prompt is not None):
            _refuse(f"max_block_tokens must be from 3 to {limit}, not {quoted(self.max_block_tokens)}")
        if self.prompt is None:
            if self.readout.hidden:
                _refuse(f"readout {self.readout.readout!r} reads the states of a decoder; the layout needs a prompt")
            self.readout.require_defaults("where texts are read apart")
        elif self.reader != "minilm":
            _refuse("reader is for texts that are read apart; for a decoder write hf:MODEL#LAYOUT")
        elif self.readout.readout in ("learnt", "fused"):
            _refuse(f"readout {self.readout.readout!r} is for texts that are read apart, not for decoders")
        elif (self.readout.readout == "yes_no") == bool(self.prompt.query):
            _refuse(
                "readout 'yes_no' reads the ends of the documents' blocks, so that no query block stands behind them: "
                "put {query} into the instruction, and leave query empty"
                if self.prompt.query
                else f"readout {self.readout.readout!r} reads the query block, which is empty"
            )
        elif self.readout.hidden and self.prompt.visible_tokens != "all":
            _refuse("visible_tokens are for readouts of attention")
        elif self.readout.readout == "id_logits" and (self.prompt.ids == "none" or self.prompt.max_documents is None):
            _refuse("readout 'id_logits' needs ids in the blocks, and max_documents, for which there are ids")
        elif self.documents_see_query:
            _refuse("documents_see_query is for texts that are read apart; put {query} into the prompt's instruction")
        if self.relevance is not None and not self.list_free:
            _refuse("relevance needs scores that do not depend on the list, and those of this layout do")

    @property
    def kind(self) -> Kind:
        """The kind of the layout: ``decoder`` if it has a prompt, else ``late-interaction``."""
        return "late-interaction" if self.prompt is None else "decoder"

    @property
    def order_free(self) -> bool:
        """Whether the order of the candidates leaves no trace: no ids, a block mask, positions that restart."""
        return self._apart and (self.prompt is None or self.prompt.ids == "none")

    @property
    def list_free(self) -> bool:
        """Whether a document's score depends only on the query and the document, not on the list.

        In a prompt, this is so only if each block answers for itself (``yes_no``), since a query block reads all
        documents before it asks. A ``learnt`` readout may depend on the list or not, which its weights decide: see
        `LearntReadout.list_free`.
        """
        if self.prompt is None:
            return self.readout.readout != "mass"
        return self.readout.readout == "yes_no" and self.order_free and "{count}" not in self.prompt.instruction

    @property
    def keepable(self) -> bool:
        """Whether a document's states are the same for every query and every list, and can therefore be kept.

        A readout of hidden states reads what comes after the last layer, and cannot use keys and values that were kept.
        """
        if self.prompt is None:
            return not self.documents_see_query
        if self.readout.hidden:
            return False
        return self._apart and not re.search(r"\{(query|count)\}", self.prompt.instruction)

    @property
    def _apart(self) -> bool:
        """Whether no document sees another, nor counts behind it."""
        return self.prompt is None or (self.prompt.mask == "block" and self.prompt.positions == "restart")

    @property
    def stride(self) -> int:
        """The number of a document's tokens of which the query block sees one."""
        visible = self.require_prompt().visible_tokens
        return 1 if visible == "all" else int(visible.removeprefix("stride:"))

    @property
    def fingerprint(self) -> str:
        """Hash all fields that change what a head sees, to 16 hexadecimal digits. Heads are found for one fingerprint.

        Raises:
            InputError: if the layout is not for decoders.
        """
        parts = {"": self, "readout": self.readout, "prompt": self.require_prompt()}
        fields = {field: getattr(parts[_SECTIONS[field]], field) for field in (*_FINGERPRINTED, *_FINGERPRINTED_LATER)}
        for field in _FINGERPRINTED_LATER:
            if fields[field] == _default(_PARTS[_SECTIONS[field]], field):
                del fields[field]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]

    def require_prompt(self) -> PromptSpec:
        """Return the prompt, or refuse a layout that has none.

        Raises:
            InputError: if the layout has no prompt.
        """
        if self.prompt is None:
            check_kind(self, "decoder")
        assert self.prompt is not None
        return self.prompt

    def as_dict(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, in their sections, as they stand in YAML."""
        fields = _non_defaults(self, _PARTS) | {"readout": _non_defaults(self.readout)}
        return fields if self.prompt is None else fields | {"prompt": _non_defaults(self.prompt)}


# Fields that are mappings themselves, and replaced as a whole.
_GROUPS: Mapping[str, type] = {"weights": FusionWeights, "relevance": RelevanceSpec}
_PARTS: Mapping[str, type] = {"": Layout, "readout": ReadoutSpec, "prompt": PromptSpec}
# Where each field stands; "" is the layout itself. No name is in two parts, so that a name says which field is meant.
_SECTIONS: Mapping[str, str] = {
    field.name: section
    for section, part in _PARTS.items()
    for field in dataclasses.fields(part)
    if section or field.name not in _PARTS
}


def layout_fields() -> Mapping[str, str]:
    """List the fields that `load_layout` can change, each with its section, "" for the top."""
    return _SECTIONS


@functools.cache
def shipped_layouts() -> Mapping[str, Kind]:
    """List the layouts that ship with Sightline, each with its kind."""
    return {name: load_layout(name).kind for name in layout_names()}


def check_kind(layout: Layout, kind: Kind, asked: object = None) -> None:
    """Refuse a layout of the other kind.

    Args:
        layout: the layout to check.
        kind: the kind that it must have.
        asked: how you asked for the layout. If None, its name.

    Raises:
        InputError: if it is of the other kind. The message says what to write instead.
    """
    if layout.kind == kind:
        return
    asked = layout.name if asked is None else asked
    if layout.kind == "decoder":
        raise InputError(f"layout {asked!r} is for decoders; name the model too: hf:MODEL#{asked}")
    raise InputError(f"layout {asked!r} has no prompt, so it is not for decoders; load it without a model: {asked!r}")


def load_layout(name: str | Path | Layout, /, **changes: Any) -> Layout:
    """Load a layout that ships with Sightline or a YAML file, and change fields of it if you like.

    A file has the fields of `Layout`, with those of `ReadoutSpec` under ``readout:`` and, for decoders, those of
    `PromptSpec` under ``prompt:``. With ``base:`` and the name of a layout that ships, it has only the fields that
    differ.

    Args:
        name: the name of a layout: ``minilm``, ``minilm-log-mass``, ``minilm-mass``, ``minilm-maxsim``, ``blockrank``,
            ``blockrank-cached``, ``icr``, ``icr-block``, ``icr-block-heads``, ``qrhead``, ``core``, or another of
            `shipped_layouts`. Or the path of a ``.yaml`` file, or a `Layout`.
        changes: fields to replace, by name, in whatever section they stand: ``scale=10.0``, ``readout="mass"``. Any
            field but ``name`` removes ``relevance`` from the layout, since it was fitted to other scores; you can give
            a new one with it.

    Raises:
        InputError: if there is no such layout, or the layout is not valid.

    Example:
        >>> changed = load_layout("minilm-log-mass", readout="mass", scale=10.0).readout
        >>> changed.readout, changed.scale
        ('mass', 10.0)
    """
    if isinstance(name, Layout):
        fields = name.as_dict()
    else:
        path = _find(name)
        try:
            fields = load_yaml(path)
        except DataError as error:
            raise InputError(str(error)) from None
        if not isinstance(fields, dict) or not isinstance(fields.get("name"), str):
            raise InputError(f"{path}: a layout is a mapping with a name")
        if "base" in fields:
            try:
                fields = _on_base(fields)
            except InputError as error:
                raise InputError(f"{path}: {error}") from None
        if reasons := _wrong_fields(fields):
            raise InputError(f"{path}: {'; '.join(reasons)}")
    try:
        return as_type(_changed(fields, changes), Layout)
    except (DataError, InputError) as error:
        raise InputError(f"layout {quoted(fields['name'])}: {error}") from None


def _find(name: str | Path) -> Traversable:
    """The file of a layout that was asked for by name or path."""
    is_path, names = str(name).endswith((".yaml", ".yml")), layout_names()
    if not (os.path.isfile(name) if is_path else str(name) in names):  # noqa: PTH113 - Path.is_file raises at long names
        raise InputError(
            f"no layout {quoted(str(name))}; there are {', '.join(names)}, or name a .yaml file"
            f"{did_you_mean(str(name), names)}"
        )
    return Path(name) if is_path else LAYOUTS / f"{name}.yaml"


def _on_base(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What a file with ``base`` stands for."""
    base, names = fields["base"], layout_names()
    if base not in names:
        _refuse(f"base must be one of {', '.join(names)}, not {quoted(base)}{did_you_mean(str(base), names)}")
    whole = load_layout(str(base)).as_dict()
    whole.pop("relevance", None)  # it was fitted to other scores
    for name, value in fields.items():
        own = whole.get(name)
        if name in _PARTS and isinstance(own, dict) and isinstance(value, Mapping):
            value = {**own, **value}
        whole[name] = value
    del whole["base"]
    return whole


def _wrong_fields(fields: Mapping[Any, Any]) -> list[str]:
    """What a mapping lacks, what no layout has, and what belongs in another section."""
    missing: list[str] = []
    unknown: list[str] = []
    misplaced: list[str] = []
    for section, part in _PARTS.items():
        values = fields if not section else fields.get(section)
        if section == "prompt" and values is None:
            continue
        if not isinstance(values, Mapping):
            if section in fields:  # else it is among what the layout lacks
                misplaced.append(f"{section} is a mapping, not {quoted(values)}")
            continue
        own = {field.name for field in dataclasses.fields(part)}
        missing += (field for field in own - set(values) if _default(part, field) is dataclasses.MISSING)
        for name in set(values) - own:
            if name not in _SECTIONS:
                unknown.append(str(name))
            else:
                misplaced.append(f"{name} stands {f'under {_SECTIONS[name]}' if _SECTIONS[name] else 'at the top'}")
    reasons = [f"the layout lacks {', '.join(sorted(missing))}"] if missing else []
    if unknown:
        reasons.append(_no_such(unknown))
    return reasons + sorted(misplaced)


def _changed(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a layout, some of them replaced."""
    if unknown := changes.keys() - _SECTIONS.keys():
        _refuse(_no_such(unknown))
    new = {name: dict(value) if isinstance(value, Mapping) else value for name, value in fields.items()}
    if changes.keys() - {"name", "relevance"}:
        new.pop("relevance", None)
    for name, value in changes.items():
        section = new.get(_SECTIONS[name]) if _SECTIONS[name] else new
        if section is None:
            _refuse(f"{name} is for decoders; this layout has no prompt")
        section[name] = value
    for name, part in _GROUPS.items():
        group = (new[_SECTIONS[name]] if _SECTIONS[name] else new).get(name)
        own = [field.name for field in dataclasses.fields(part)]
        if isinstance(group, Mapping) and (extra := sorted(str(field) for field in group if field not in own)):
            _refuse(f"{name}: there is no {listed(extra)}; there are {', '.join(own)}")
    return new


def _no_such(names: Collection[object]) -> str:
    """That a layout has no such fields, and which may have been meant."""
    unknown = sorted(map(str, names))
    guess = next(filter(None, (did_you_mean(name, _SECTIONS) for name in unknown)), "")
    return f"a layout has no {listed(unknown)}" + (guess or f"; there are {', '.join(sorted(_SECTIONS))}")


def _check_places(field: str, text: str, allowed: Mapping[str, int | None], needed: str | None = None) -> None:
    """Refuse a template that lacks a place, has one that means nothing, or has one more often than it may."""
    places = re.findall(r"\{(\w*)\}", text)
    if unknown := [name for name in places if name not in allowed]:
        _refuse(f"{field} has a place for {unknown[0]!r}; it may have {', '.join(allowed)}")
    if needed is not None and needed not in places:
        _refuse(f"{field} lacks the place {{{needed}}}")
    for name, most in allowed.items():
        if most is not None and places.count(name) > most:
            _refuse(f"{field} has the place {{{name}}} twice")


def _non_defaults(part: Any, but: Collection[str] = ()) -> dict[str, Any]:
    """Fields that differ from their default, but for some."""
    values = {field: getattr(part, field.name) for field in dataclasses.fields(part) if field.name not in but}
    return {field.name: _plain(value) for field, value in values.items() if value != field.default}


def _plain(value: Any) -> Any:
    """A value as it stands in YAML."""
    if dataclasses.is_dataclass(value):
        return _non_defaults(value)
    return list(value) if isinstance(value, tuple) else value


def _default(part: type, name: str) -> Any:
    return next(field.default for field in dataclasses.fields(part) if field.name == name)


def _refuse(reason: str) -> NoReturn:
    raise InputError(reason)
