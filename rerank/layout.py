"""A layout: how texts become blocks, what may attend to what, and how attention becomes a score. Data, not code."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from ..errors import DataError, InputError, ModelError
from ..names import LAYOUTS, layout_names
from ..parsing import read_yaml
from ..wording import did_you_mean, listed, quoted

__all__ = ["Layout", "check_model", "load_layout", "shipped_layouts"]

_HEAD = re.compile(r"\d+-\d+")
_DETECTED = re.compile(r"(qr|core|ndcg):[1-9]\d*")
_LAST = re.compile(r"last:[1-9]\d*")
# Fields that change which heads would be found; the others read the same attention in another way.
_READING = (
    "block instruction query chat answer completion ids mask positions query_position order signal_tokens "
    "max_block_tokens calibration outliers"
).split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A validated layout: the five published systems and the default are such objects over one engine.

    Texts are templates: ``{query}`` in ``instruction`` and ``query``, ``{title}``, ``{text}`` and ``{id}`` in
    ``block``. Where a document has no title, ``{title}`` goes with the blank after it. Each block is tokenised by
    itself.

    Args:
        name: how it is asked for.
        model: ``minilm``, the embedded default, or ``decoder``, any causal language model.
        block: the text of a document's block.
        mask: ``block``: a document sees itself and the instruction; ``causal``: also all documents before it. The query
            block sees everything.
        positions: ``restart``: every document counts from the end of the instruction, so that its place leaves no
            trace; ``sequential``: tokens are numbered as they stand.
        signal_tokens: whose attention is read: ``query``, the tokens of the query's text; ``prompt``, those of the
            query block up to the end of that text; ``block``, the whole query block, chat suffix included; ``last:N``,
            its last N tokens.
        max_block_tokens: tokens read of a block, template and special ones included; the rest of its text is cut, and
            counted.
        normalisation: over which keys a signal token's attention sums to one; ``documents``: all tokens of all
            candidates, and nothing else (BlockRank, 2025, section 3.3); ``all_keys``: everything it sees (ICR, QRHead).
        readout: ``mass``, the mean over signal tokens and heads of the attention on the block; ``log_mass``, the mean
            of its logarithm, so that every signal token must find something; ``maxsim``, the mean of the largest logit;
            ``learnt``, what weights beside the layout make of it (`LearntReadout`).
        scale: the factor on logits before the softmax that is read, an inverse temperature. The default model's logits
            are cosines, a decoder's its own.
        instruction: stands before the documents, which all see it. With ``{query}`` in it they see the query, and
            cannot be kept for others.
        query: the query block.
        chat: wrap all of it in the model's chat template, as one turn of the user.
        answer: what the model has begun to answer.
        completion: more of it, tokenised by itself.
        target: how the answer goes on, for models that learn to write it; ``{ids}`` are those of the documents that
            answer, with commas between them. Nothing reads it but training.
        ids: what ``{id}`` is: the place in the list ``from_0`` or ``from_1``, or a ``random`` number of four digits.
        query_position: with ``restart``, the position at which the query block begins; None for the end of a block of
            ``max_block_tokens``. Fixed, so that it tells nothing of the list.
        order: documents stand as ``given`` (best first), or ``reversed``, so that the best is next to the query.
        shuffles: if above 0, scores are means over so many shuffles of the list, drawn alike for every given order
            (permutation self-consistency, Tang et al. 2024).
        layers: whose attention is read: ``all``; a layer by its number from 0; or by its depth, a fraction of the
            model's layers. What lies above is neither loaded nor computed.
        heads: ``all``; a list of ``layer-head``; or those that `sightline heads` found, such as ``qr:16``. Lists and
            found heads make ``layers`` superfluous.
        ssmax: if above 0, logits are multiplied by ``ssmax * ln(number of documents)``, against dilution in long lists
            (Scalable-Softmax, Nakanishi 2025; BlockSearch, 2026).
        length: ``sum``: the attention on all of a block's tokens; ``mean``: per token, so that long documents gain
            nothing.
        calibration: ``null_query``: less the attention that the query "N/A" pays, token by token (ICR, section 3.2). It
            shares the reading of the documents.
        outliers: with calibration, leave out tokens that lie more than so many standard deviations below the mean of
            their document; None keeps all.

    Raises:
        InputError: if a field has a value it cannot have, or two do not go together.

    Example:
        >>> load_layout("minilm").readout
        'log_mass'
        >>> load_layout("icr").order_free
        False
    """

    name: str
    model: Literal["minilm", "decoder"]
    block: str
    mask: Literal["block", "causal"]
    positions: Literal["restart", "sequential"]
    signal_tokens: str
    max_block_tokens: int
    normalisation: Literal["documents", "all_keys"]
    readout: Literal["mass", "log_mass", "maxsim", "learnt"]
    scale: float
    instruction: str = ""
    query: str = "{query}"
    chat: bool = False
    answer: str = ""
    completion: str = ""
    target: str = ""
    ids: Literal["none", "from_0", "from_1", "random"] = "none"
    query_position: int | None = None
    order: Literal["given", "reversed"] = "given"
    shuffles: int = 0
    layers: str | int | float = "all"
    heads: str | tuple[str, ...] = "all"
    ssmax: float = 0.0
    length: Literal["sum", "mean"] = "sum"
    calibration: Literal["none", "null_query"] = "none"
    outliers: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.heads, list):  # YAML's own
            object.__setattr__(self, "heads", tuple(self.heads))
        for field, kind in get_type_hints(Layout).items():
            value, allowed = getattr(self, field), get_args(kind)
            if allowed and all(isinstance(one, str) for one in allowed) and value not in allowed:
                self._refuse(f"{field} must be {' or '.join(map(repr, allowed))}, not {quoted(value)}")
            if kind is str and not isinstance(value, str):
                self._refuse(f"{field} must be a text, not {quoted(value)}")
        # The name becomes the tag of TREC runs, which blanks would break.
        if self.name.split() != [self.name]:
            self._refuse("name must be a word without blanks")
        if not _is_number(self.scale) or not 0 < self.scale < 1000:
            self._refuse(f"scale must be a number above 0 and below 1000, not {quoted(self.scale)}")
        if not isinstance(self.chat, bool):
            self._refuse(f"chat must be true or false, not {quoted(self.chat)}")
        self._check_templates()
        self._check_numbers()
        if self.model == "minilm":
            self._check_minilm()
        elif self.readout == "learnt":
            self._refuse("readout 'learnt' is for minilm; decoders learn in their layers")

    def _check_templates(self) -> None:
        for field, allowed, needed in (
            ("block", ("title", "text", "id"), ("text",)),
            ("instruction", ("query",), ()),
            ("query", ("query",), ("query",)),
            ("target", ("ids",), ("ids",) if self.target else ()),
        ):
            found = re.findall(r"\{(\w*)\}", getattr(self, field))
            if unknown := [name for name in found if name not in allowed]:
                self._refuse(f"{field} has a place for {unknown[0]!r}; it may have {', '.join(allowed)}")
            if missing := [name for name in needed if name not in found]:
                self._refuse(f"{field} lacks the place {{{missing[0]}}}")
            if any(found.count(name) > 1 for name in ("title", "text")):
                self._refuse(f"{field} has a place twice that it may have once")
        if ("{id}" in self.block) != (self.ids != "none"):
            self._refuse(
                f"ids is {quoted(self.ids)} but block has {'' if '{id}' in self.block else 'no '}place for an id"
            )
        if self.query.count("{query}") > 1:
            self._refuse("query has the place {query} twice")

    def _check_numbers(self) -> None:
        limit = 512 if self.model == "minilm" else 1_000_000
        if not _is_whole(self.max_block_tokens) or not 3 <= self.max_block_tokens <= limit:
            self._refuse(f"max_block_tokens must be from 3 to {limit}, not {quoted(self.max_block_tokens)}")
        if self.signal_tokens not in ("query", "prompt", "block") and not _LAST.fullmatch(self.signal_tokens):
            self._refuse(
                f"signal_tokens must be query, prompt, block or such as last:2, not {quoted(self.signal_tokens)}"
            )
        if self.query_position is not None and (
            not _is_whole(self.query_position) or self.query_position < 1 or self.positions != "restart"
        ):
            self._refuse(
                f"query_position is for positions that restart, and above 0; it is {quoted(self.query_position)}"
            )
        if not _is_whole(self.shuffles) or not 0 <= self.shuffles <= 1000:
            self._refuse(f"shuffles must be from 0 to 1000, not {quoted(self.shuffles)}")
        if self.layers != "all" and not (
            (_is_whole(self.layers) and self.layers >= 0)  # type: ignore[operator]
            or (isinstance(self.layers, float) and 0 < self.layers < 1)
        ):
            self._refuse(
                f"layers must be 'all', a number from 0, or a depth between 0 and 1, not {quoted(self.layers)}"
            )
        if isinstance(self.heads, str):
            if self.heads != "all" and not _DETECTED.fullmatch(self.heads):
                self._refuse(f"heads must be 'all', such as 'qr:16', or a list of layer-head, not {quoted(self.heads)}")
        elif not isinstance(self.heads, tuple) or not self.heads or not all(map(_is_head, self.heads)):
            self._refuse(f"heads must be a list such as ['14-22', '13-16'], not {quoted(self.heads)}")
        elif len(set(self.heads)) < len(self.heads):
            self._refuse("heads names a head twice")
        if not _is_number(self.ssmax) or not 0 <= self.ssmax < 1000:
            self._refuse(f"ssmax must be a number from 0 to below 1000, not {quoted(self.ssmax)}")
        if self.outliers is not None and (not _is_number(self.outliers) or not 0 < self.outliers < math.inf):
            self._refuse(f"outliers must be above 0, or null, not {quoted(self.outliers)}")
        if self.outliers is not None and self.calibration == "none":
            self._refuse("outliers are found by calibration, which is none")
        if self.calibration != "none" and (self.readout, self.normalisation) != ("mass", "all_keys"):
            self._refuse("calibration compares attention over all_keys, read as mass")
        if self.readout == "maxsim" and self.length == "mean":
            self._refuse("maxsim takes the largest logit of a block, which no length dilutes")

    def _check_minilm(self) -> None:
        wanted: dict[str, Any] = {"block": "{title} {text}", "mask": "block"}
        wanted |= {"positions": "restart", "signal_tokens": "query", "normalisation": "documents"}
        wanted |= {field.name: field.default for field in dataclasses.fields(self) if not _is_missing(field.default)}
        if self.instruction == "{query}":  # documents that see the query
            del wanted["instruction"]
        for field, value in wanted.items():
            if getattr(self, field) != value:
                self._refuse(f"{field} must be {quoted(value)} for minilm, not {quoted(getattr(self, field))}")

    @property
    def order_free(self) -> bool:
        """Whether the order of the candidates leaves no trace: no ids, a block mask, positions that restart."""
        return self.ids == "none" and self.mask == "block" and self.positions == "restart"

    @property
    def keepable(self) -> bool:
        """Whether a document's states are the same for every query and every list, so that they can be kept."""
        return self.mask == "block" and self.positions == "restart" and "{query}" not in self.instruction

    @property
    def fingerprint(self) -> str:
        """Of all fields that change what a head sees: 16 hexadecimal digits. Heads are found for one fingerprint."""
        fields = json.dumps({field: getattr(self, field) for field in _READING}, sort_keys=True)
        return hashlib.sha256(fields.encode()).hexdigest()[:16]

    def signal_layers(self, depth: int) -> list[int]:
        """Layers whose attention is read, of a model with ``depth`` layers.

        Raises:
            ModelError: if the model has no such layer.
        """
        if self.layers == "all" and isinstance(self.heads, str):
            return list(range(depth))
        if isinstance(self.heads, tuple):
            layers = sorted({layer for layer, _ in self.selected_heads})
        else:
            layers = [int(self.layers * depth) if isinstance(self.layers, float) else int(self.layers)]
        if layers[-1] >= depth:
            raise ModelError(
                f"layout {self.name!r} reads layer {layers[-1]}, but the model has layers 0 to {depth - 1}"
            )
        return layers

    @property
    def selected_heads(self) -> list[tuple[int, int]]:
        """(layer, head) of each head that is listed; empty if all are read."""
        if isinstance(self.heads, str):
            return []
        return [(int(layer), int(head)) for layer, head in (pair.split("-") for pair in self.heads)]

    def as_dict(self) -> dict[str, Any]:
        """Fields that differ from their default, as they stand in YAML."""
        found = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if _is_missing(field.default) or value != field.default:
                found[field.name] = list(value) if isinstance(value, tuple) else value
        return found

    def _refuse(self, reason: str) -> None:
        raise InputError(f"layout {quoted(self.name)}: {reason}")


@functools.cache
def shipped_layouts() -> Mapping[str, str]:
    """Names of the layouts that ship with Sightline, each with the kind of model that it is for."""
    return {name: load_layout(name).model for name in layout_names()}


def check_model(layout: Layout, model: Literal["minilm", "decoder"], asked: object = None) -> None:
    """Refuse a layout that is for the other kind of model.

    Args:
        layout: the layout.
        model: the kind of model that would read with it.
        asked: how the layout was asked for; None for its name.

    Raises:
        InputError: naming what to write instead.
    """
    if layout.model == model:
        return
    asked = layout.name if asked is None else asked
    if layout.model == "decoder":
        raise InputError(f"layout {asked!r} is for decoders; name the model too: hf:MODEL#{asked}")
    raise InputError(f"layout {asked!r} is for MiniLM, not for decoders; load it without a model: {asked!r}")


def load_layout(name: str | Path | Layout, /, **changes: Any) -> Layout:
    """Load a layout that ships with Sightline, or a YAML file, or change one.

    Args:
        name: ``minilm``, ``minilm-mass``, ``minilm-maxsim``, ``blockrank``, ``blockrank-cached``, ``icr``,
            ``icr-block``, ``qrhead``, ``core``, the path of a ``.yaml`` file, or a `Layout`.
        changes: fields to replace.

    Raises:
        InputError: if there is no such layout, or it is not a valid one.
    """
    if isinstance(name, Layout):
        return Layout(**_checked({**name.as_dict(), **changes}, f"layout {name.name!r}"))
    given, names = str(name).endswith((".yaml", ".yml")), layout_names()
    if not (os.path.isfile(name) if given else str(name) in names):  # noqa: PTH113 - Path.is_file raises at long names
        raise InputError(
            f"no layout {quoted(str(name))}; there are {', '.join(names)}, or name a .yaml file"
            f"{did_you_mean(str(name), names)}"
        )
    source: Traversable = Path(name) if given else LAYOUTS / f"{name}.yaml"
    try:
        fields = read_yaml(source)
    except DataError as error:
        raise InputError(str(error)) from None
    if not isinstance(fields, dict) or not isinstance(fields.get("name"), str):
        raise InputError(f"{source}: a layout is a mapping with a name")
    return Layout(**_checked({**fields, **changes}, source))


def _checked(fields: dict[str, Any], source: object) -> dict[str, Any]:
    known = {field.name for field in dataclasses.fields(Layout)}
    needed = {field.name for field in dataclasses.fields(Layout) if _is_missing(field.default)}
    reasons = []
    if missing := sorted(needed - set(fields)):
        reasons.append(f"the layout lacks {', '.join(missing)}")
    if unknown := sorted(map(str, set(fields) - known)):
        guess = next(filter(None, (did_you_mean(name, known) for name in unknown)), "")
        guess = guess or f"; there are {', '.join(sorted(known))}"
        reasons.append(f"a layout has no {listed(unknown)}{guess}")
    if reasons:
        raise InputError(f"{source}: {'; '.join(reasons)}")
    return fields


def _is_missing(default: object) -> bool:
    return default is dataclasses.MISSING


def _is_head(value: object) -> bool:
    return isinstance(value, str) and _HEAD.fullmatch(value) is not None


def _is_number(value: object) -> bool:
    # bool is an int to Python, and YAML reads a bare "yes" as one.
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
