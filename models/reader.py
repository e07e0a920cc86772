"""The seam for block readers: models that read a text alone, and give a state for each of its tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from ..tracing import Span, span

if TYPE_CHECKING:
    import torch

    from ..documents import Document
    from ..kernels import Keys
    from .cache import DocumentCache, Form

__all__ = [
    "BlockReader",
    "DecoderForm",
    "DecoderReader",
    "DecoderReading",
    "DocumentStates",
    "StoredBlock",
    "TokenStates",
    "Tokens",
    "TrainableReader",
    "Window",
    "document_states",
]


@dataclass(frozen=True, slots=True)
class TokenStates:
    """What a reader saw in a list of N texts, packed: text n owns rows ``offsets[n]:offsets[n + 1]``.

    Args:
        states: float32 (T, dim), L2-normalised states of the tokens; None if not asked for. Late-interaction models
            also have states of their special tokens, markers and query expansion, others those of the text alone.
        offsets: int64 (N + 1,).
        spans: int32 (T, 2), the characters ``[start, end)`` of its text that each token covers. They never go back.
            A token that is not of the text covers none: start and end are the end of the token before it.
        pooled: float32 (N, dim), the bi-encoder's embedding.
        truncated: int64 (N,), how many tokens at the end of each text were not read.
    """

    states: np.ndarray | None
    offsets: np.ndarray
    spans: np.ndarray
    pooled: np.ndarray
    truncated: np.ndarray


@dataclass(frozen=True, slots=True)
class Tokens:
    """N texts as token ids.

    Args:
        ids: ids of each text, with special tokens and whatever stands before the text.
        lead: how many ids stand before the first of a text's own.
        counts: int64 (N,), how many tokens of each text are read.
        truncated: int64 (N,), how many tokens at the end of each text are not.
        spans: the characters ``[start, end)`` that each token of each text covers.
        kept: int64 (n,) of each text: the places, among its ids, of the tokens whose states are kept; None where they
            stand together behind ``lead``.
        expansion: bool (n,) of each text: which of its ids expand a query, as in ColBERT; None if there is no such.
    """

    ids: list[list[int]]
    lead: int
    counts: np.ndarray
    truncated: np.ndarray
    spans: list[list[tuple[int, int]]]
    kept: list[np.ndarray] | None = None
    expansion: list[np.ndarray] | None = None


@dataclass(frozen=True, slots=True)
class DocumentStates:
    """Token states of one document, read now or kept from an earlier reading.

    Args:
        keys: (T, D).
        truncated: how many tokens at the end of the text were not read.
        spans: integers (T, 2), the characters ``[start, end)`` of the text that each token covers; None if they are not
            known, so that evidence must tokenise the text.
    """

    keys: Keys
    truncated: int
    spans: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class DecoderReading:
    """How a decoder reads documents: all that their keys and values follow from, beside the text.

    Args:
        name: the reranker's name, such as ``hf:Qwen/Qwen3-0.6B#icr-block``.
        model: name of the model.
        revision: revision of the model's weights, "" if that is not known.
        layout: name of the layout.
        fingerprint: a hash of the layout's instruction and of its documents' template and length; "" where documents
            are read together with the query or with one another, so that nothing can be kept of them.
        layer: the signal layer. Keys and values of all layers below it are needed, and its own keys.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    name: str
    model: str
    revision: str
    layout: str
    fingerprint: str
    layer: int

    def misfit(self, kept: DecoderReading) -> str:
        """Why states that were read in another way cannot stand in for those of this reading; "" if they can.

        Example:
            >>> kept = DecoderReading("hf:a#icr-block", "a", "r1", "icr-block", "f00d", layer=18)
            >>> DecoderReading("hf:a#other", "a", "r1", "other", "f00d", layer=7).misfit(kept)
            ''
            >>> DecoderReading("hf:a#icr-block", "a", "r1", "icr-block", "f00d", layer=29).misfit(kept)
            'they end at layer 18, and it reads layer 29'
        """
        if not self.fingerprint:
            return f"its layout {self.layout!r} reads documents together with the query or with one another"
        if (self.revision or self.model) != (kept.revision or kept.model):
            revisions = [f" at revision {reading.revision}" if reading.revision else "" for reading in (kept, self)]
            return f"they are of the model {kept.model!r}{revisions[0]}, not of {self.model!r}{revisions[1]}"
        if self.fingerprint != kept.fingerprint:
            return (
                f"its layout {self.layout!r} has another instruction, block template or max_block_tokens than "
                f"{kept.layout!r}"
            )
        if self.layer > kept.layer:
            return f"they end at layer {kept.layer}, and it reads layer {self.layer}"
        return ""


@dataclass(frozen=True, slots=True)
class DecoderForm:
    """What the decoder states are that an index keeps.

    Args:
        reading: how the documents were read.
        kind: ``fp16``, or ``int8`` with a scale per token and head, which takes two bytes.
        heads: Hkv, heads of keys and values.
        key_dim: numbers in a key.
        value_dim: numbers in a value.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    reading: DecoderReading
    kind: Literal["fp16", "int8"]
    heads: int
    key_dim: int
    value_dim: int

    def slot_bytes(self, layer: int) -> list[int]:
        """Bytes that a token takes in each part up to the keys of a signal layer: keys, values, keys, ..., keys."""
        keys, values = (
            self.heads * (dim + 2 if self.kind == "int8" else 2 * dim) for dim in (self.key_dim, self.value_dim)
        )
        return [keys, values] * layer + [keys]

    @property
    def token_bytes(self) -> int:
        """Bytes that a token takes in all."""
        return sum(self.slot_bytes(self.reading.layer))


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """The decoder states of one passage, as an index keeps them.

    Args:
        data: uint8 (tokens * form.token_bytes,): the keys of all tokens in the first layer, their values there, their
            keys in the second, and so on.
        tokens: how many tokens the passage's block has.
        form: what they are.
    """

    data: np.ndarray
    tokens: int
    form: DecoderForm


class Window(Protocol):
    """How much of a text a model reads.

    Attributes:
        room: tokens of a text that are read at most, special tokens left out.
    """

    @property
    def room(self) -> int: ...  # noqa: D102 - see Attributes

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        """Character span of every token of the whole text, special tokens left out."""
        ...


@runtime_checkable
class BlockReader(Protocol):
    """A model that reads each text alone and gives a state for every token of it.

    Derive from this class: then you write `read` and `token_offsets`, and get the other methods. A reader is also the
    `Window` of the rerankers that use it. Several threads may call it at once.

    Attributes:
        name: how you ask for it.
        revision: pins the exact weights; states that an index keeps serve only a reader of the same revision.
        dim: D, the length of a token state.
        max_length: tokens read of a text, special tokens included.
        dtype: what the states are computed with, such as ``float32``.
        backend: what computes them, see `sightline.models.devices.Backend`. States of one revision that several
            backends computed in float32 differ by less than .0001, so they can stand in for one another.
        trained: weights that training has changed, by name; None for a reader as it was published.
        config: the transformer's configuration as transformers has it, to count its FLOPs; None if there is none.
    """

    name: str
    revision: str
    dim: int
    max_length: int
    dtype: str = "float32"
    backend: str = "torch"
    trained: Mapping[str, torch.Tensor] | None = None
    config: Any = None

    def read(
        self,
        texts: Sequence[str],
        *,
        kind: Literal["query", "document"] = "document",
        states: bool = True,
        behind: str = "",
    ) -> TokenStates:
        """Read each text alone.

        Args:
            texts: N strings; an empty one has no token states.
            kind: what the texts are, for models that treat queries and documents differently.
            states: whether to keep the token states; False gives the pooled embeddings alone.
            behind: a text that every text sees before itself, such as the query. Its own states are left out.

        Returns:
            `TokenStates` in input order. Up to rounding, a text's rows depend on the text (and ``behind``) only.
        """
        ...

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        """Character span of every token of the whole text, special tokens left out."""
        ...

    @property
    def room(self) -> int:
        """Tokens of a text that are read at most, special tokens left out."""
        return self.max_length - 2

    def read_queries(self, texts: Sequence[str]) -> list[TokenStates]:
        """Read queries, each as a list of one; a reader may remember recent ones."""
        return [self.read([text], kind="query") for text in texts]

    def spans(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Tokenise only: for each text, int32 (tokens, 2) character spans of the tokens that `read` would give."""
        return [np.array(self.token_offsets(t)[: self.room], dtype=np.int32).reshape(-1, 2) for t in texts]

    def tokens(self, text: str) -> list[str]:
        """The tokens of a query that `read_queries` would give, as strings."""
        return [text[start:end] for start, end in self.token_offsets(text)[: self.room]]


@runtime_checkable
class DecoderReader(Protocol):
    """A decoder that reads documents for an index to keep: a reranker by a decoder whose layout is keepable.

    Attributes:
        reading: how it reads documents.
    """

    reading: DecoderReading | None

    def form(self, kind: Literal["fp16", "int8"]) -> DecoderForm:
        """What an index keeps of this decoder's documents.

        Raises:
            InputError: if its layout reads documents together with the query or with one another.
        """
        ...

    def read_stored(self, documents: Sequence[Document], form: DecoderForm) -> Iterator[list[np.ndarray]]:
        """Read documents, some at a time.

        Args:
            documents: N passages, each as a document of its own.
            form: what is kept; its signal layer may be lower than the decoder's own.

        Yields:
            For the next documents, `StoredBlock.data` of each.
        """
        ...


class TrainableReader(BlockReader, Protocol):
    """A block reader whose network can be trained: what `sightline.training` needs beside `BlockReader`.

    Attributes:
        network: the torch module.
        device: where it is.
    """

    network: torch.nn.Module
    device: torch.device

    def tokenise(self, texts: Sequence[str], *, behind: str = "") -> Tokens:
        """Token ids of texts as `read` reads them."""
        ...

    def hidden(self, tokens: Tokens, batch: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Last hidden states of some texts, in one forward pass, with gradients if they are enabled.

        Args:
            tokens: what `tokenise` returned.
            batch: places of B texts in it.

        Returns:
            (float32 (B, L, dim), bool (B, L)): the states, special tokens included, and which of them are the text's.
        """
        ...

    def weights_changed(self) -> None:
        """Drop what was made with the weights as they were, such as queries that `read_queries` remembers."""
        ...


def document_states(
    reader: BlockReader, texts: Sequence[str], *, behind: str = "", cache: DocumentCache | None = None
) -> list[DocumentStates]:
    """Read documents: the token states of each text.

    Equal texts are read once, so that they get equal states to the last bit.

    Args:
        reader: the model. If it has no ``revision``, nothing is kept: nobody could tell its weights from others.
        texts: N strings.
        behind: see `BlockReader.read`. What is read behind a text is not kept.
        cache: gives what it keeps of these texts, and keeps what is read now; None keeps nothing.

    Example:
        >>> from sightline.models.loading import load_reader
        >>> states = document_states(load_reader(), ["Cats purr.", "Dogs bark.", "Cats purr."])
        >>> [tuple(document.keys.shape) for document in states], states[0] is states[2]
        ([(4, 384), (3, 384), (4, 384)], True)
    """
    if not texts:
        return []
    with span("read") as step:
        return _document_states(reader, texts, behind, cache, step)


def _document_states(
    reader: BlockReader, texts: Sequence[str], behind: str, cache: DocumentCache | None, step: Span
) -> list[DocumentStates]:
    import torch

    keys: dict[str, str] = {}
    if cache is not None and reader.revision and not behind:
        from .cache import cache_key

        of_reader: tuple[object, ...] = ("token states", cache.form, reader.name, reader.revision)
        of_reader += (reader.dtype, reader.max_length)
        of_reader += (reader.backend,) if reader.backend != "torch" else ()
        keys = {text: cache_key(*of_reader, text) for text in dict.fromkeys(texts)}
    known: dict[str, DocumentStates] = {}
    for text, key in keys.items():
        if cache is not None and (kept := cache.get(key)) is not None:
            known[text] = _of_tensors(kept)
    new = [text for text in dict.fromkeys(texts) if text not in known]
    step.set(reader=reader.name, cache_hits=len(known), passages=len(new), tokens=0)
    if new:
        read = reader.read(new, behind=behind)
        assert read.states is not None
        step.set(tokens=len(read.states))
        for text, start, end, cut in zip(new, read.offsets, read.offsets[1:], read.truncated, strict=False):
            states = torch.from_numpy(read.states[start:end])
            known[text] = DocumentStates(states, int(cut), read.spans[start:end])
            if cache is not None and text in keys:
                tensors = _as_tensors(known[text], cache.form)
                cache.put(keys[text], tensors)
                known[text] = _of_tensors(tensors)
    return [known[text] for text in texts]


def _as_tensors(states: DocumentStates, form: Form) -> tuple[torch.Tensor, ...]:
    """Float states as a `DocumentCache` keeps them: how many tokens were cut, spans and keys, which share no memory."""
    import torch

    from ..kernels import QuantizedKeys, quantized

    keys = states.keys
    assert not isinstance(keys, QuantizedKeys)
    assert states.spans is not None
    cut, spans = torch.tensor(states.truncated), torch.tensor(states.spans, dtype=torch.int32)
    if form == "int8":
        small = quantized(keys)
        return cut, spans, small.values, small.scales
    return cut, spans, keys.half() if form == "fp16" else keys.clone()


def _of_tensors(tensors: tuple[torch.Tensor, ...]) -> DocumentStates:
    from ..kernels import QuantizedKeys

    cut, spans, values, *scales = tensors
    return DocumentStates(QuantizedKeys(values, *scales) if scales else values, int(cut), spans.numpy())
