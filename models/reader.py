"""The interface of block readers: models that read a text alone and give a state for each of its tokens."""

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
    """What a reader computed for a list of N texts, packed: text n owns rows ``offsets[n]:offsets[n + 1]``.

    Args:
        states: float32 (T, dim), the L2-normalised states of the tokens; None if not asked for. Late-interaction models
            also have states of their special tokens, markers and query expansion; others have those of the text alone.
        offsets: int64 (N + 1,), the first row of each text, and the end of the last.
        spans: int32 (T, 2), the characters ``[start, end)`` of its text that each token covers, never going back. A
            token that is not part of the text covers none: its start and end are the end of the token before it.
        pooled: float32 (N, dim), the embedding of each text by the bi-encoder.
        truncated: int64 (N,), the number of tokens at the end of each text that were not read.
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
        ids: the ids of each text, with special tokens and whatever stands before the text.
        lead: the number of ids that stand before the first one of a text's own.
        counts: int64 (N,), the number of tokens of each text that are read.
        truncated: int64 (N,), the number of tokens at the end of each text that are not read.
        spans: the characters ``[start, end)`` that each token of each text covers.
        kept: for each text, int64 (n,): the places, among its ids, of the tokens whose states are kept. If None, they
            stand together after ``lead``.
        expansion: for each text, bool (n,): which of its ids expand a query, as in ColBERT. If None, none does.
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
    """The token states of one document, read now or kept from an earlier reading.

    Args:
        keys: the states (T, D), as attention keys.
        truncated: the number of tokens at the end of the text that were not read.
        spans: integers (T, 2), the characters ``[start, end)`` of the text that each token covers. If None, they are
            not known, and evidence must tokenise the text.
    """

    keys: Keys
    truncated: int
    spans: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class DecoderReading:
    """How a decoder reads documents: everything that their keys and values depend on, besides the text.

    Args:
        name: the name of the reranker, such as ``hf:Qwen/Qwen3-0.6B#icr-block``.
        model: the name of the model.
        revision: the revision of the model's weights; "" if it is not known.
        layout: the name of the layout.
        fingerprint: a hash of the layout's instruction and of its documents' template and length; "" if documents are
            read together with the query or with one another, so that nothing of them can be kept.
        layer: the number of the signal layer. The keys and values of all layers below it are needed, and its own keys.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    name: str
    model: str
    revision: str
    layout: str
    fingerprint: str
    layer: int

    def misfit(self, kept: DecoderReading) -> str:
        """Say why states that were read in another way cannot replace those of this reading; "" if they can.

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
    """The form of the decoder states that an index keeps.

    Args:
        reading: how the documents were read.
        kind: ``fp16``, or ``int8`` with a scale per token and head, which takes two bytes.
        heads: Hkv, the number of heads of keys and values.
        key_dim: the number of dimensions of a key.
        value_dim: the number of dimensions of a value.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    reading: DecoderReading
    kind: Literal["fp16", "int8"]
    heads: int
    key_dim: int
    value_dim: int

    def slot_bytes(self, layer: int) -> list[int]:
        """Return the bytes that a token takes in each part up to a signal layer: keys, values, keys, ..., keys."""
        keys, values = (
            self.heads * (dim + 2 if self.kind == "int8" else 2 * dim) for dim in (self.key_dim, self.value_dim)
        )
        return [keys, values] * layer + [keys]

    @property
    def token_bytes(self) -> int:
        """The bytes that a token takes in all."""
        return sum(self.slot_bytes(self.reading.layer))


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """The decoder states of one passage, as an index keeps them.

    Args:
        data: uint8 (tokens * form.token_bytes,): the keys of all tokens in the first layer, their values in it, their
            keys in the second layer, and so on.
        tokens: the number of tokens of the passage's block.
        form: the form of the states.
    """

    data: np.ndarray
    tokens: int
    form: DecoderForm


class Window(Protocol):
    """What tells how much of a text a model reads.

    Attributes:
        room: the largest number of tokens of a text that are read, without special tokens.
    """

    @property
    def room(self) -> int: ...  # noqa: D102 - see Attributes

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        """Return the character span of every token of the whole text, without special tokens."""
        ...


@runtime_checkable
class BlockReader(Protocol):
    """A model that reads each text alone and gives a state for every token of it.

    Derive from this class and write `read` and `token_offsets`; the class has the other methods. A reader is also the
    `Window` of the rerankers that use it. Several threads may call it at once.

    Attributes:
        name: the name by which you ask for it.
        revision: the revision of the exact weights. States that an index keeps serve only a reader of the same
            revision.
        dim: D, the length of a token state.
        max_length: the number of tokens that are read of a text, special tokens included.
        dtype: the number format that the states are computed in, such as ``float32``.
        backend: the library that computes them; see `sightline.models.devices.Backend`. States of one revision that
            several backends computed in float32 differ by less than .0001, so they can replace one another.
        trained: the weights that training has changed, by name; None for a reader as it was published.
        config: the transformer's configuration, as transformers has it, which is used to count FLOPs; None if there is
            none.
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
            texts: N strings. An empty one has no token states.
            kind: what the texts are, for models that treat queries and documents differently.
            states: whether to keep the token states. If False, only the pooled embeddings are computed.
            behind: a text that every text sees before itself, such as the query. Its own states are left out.

        Returns:
            `TokenStates` in input order. Up to rounding, a text's rows depend on the text (and ``behind``) only.
        """
        ...

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        """Return the character span of every token of the whole text, without special tokens."""
        ...

    @property
    def room(self) -> int:
        """The largest number of tokens of a text that are read, without special tokens."""
        return self.max_length - 2

    def read_queries(self, texts: Sequence[str]) -> list[TokenStates]:
        """Read queries, each as a list of one. A reader may remember recent ones."""
        return [self.read([text], kind="query") for text in texts]

    def spans(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Tokenise only: return int32 (tokens, 2), the characters of each token that `read` gives, for each text."""
        return [np.array(self.token_offsets(t)[: self.room], dtype=np.int32).reshape(-1, 2) for t in texts]

    def tokens(self, text: str) -> list[str]:
        """Return the tokens of a query that `read_queries` would give, as strings."""
        return [text[start:end] for start, end in self.token_offsets(text)[: self.room]]


@runtime_checkable
class DecoderReader(Protocol):
    """A decoder that reads documents for an index to keep: a reranker whose layout reads documents independently.

    Attributes:
        reading: how the decoder reads documents.
    """

    reading: DecoderReading | None

    def form(self, kind: Literal["fp16", "int8"]) -> DecoderForm:
        """The form in which an index keeps this decoder's documents.

        Raises:
            InputError: if the layout reads documents together with the query or with one another.
        """
        ...

    def read_stored(self, documents: Sequence[Document], form: DecoderForm) -> Iterator[list[np.ndarray]]:
        """Read documents, a few at a time.

        Args:
            documents: N passages, each as a document of its own.
            form: the form to keep them in. Its signal layer may be lower than the decoder's own.

        Yields:
            For the next documents, the `StoredBlock.data` of each.
        """
        ...


class TrainableReader(BlockReader, Protocol):
    """A block reader whose network can be trained: what `sightline.training` needs in addition to `BlockReader`.

    Attributes:
        network: the torch module.
        device: the device that the network is on.
    """

    network: torch.nn.Module
    device: torch.device

    def tokenise(self, texts: Sequence[str], *, behind: str = "") -> Tokens:
        """Return the token ids of texts, as `read` reads them."""
        ...

    def hidden(self, tokens: Tokens, batch: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the last hidden states of some texts, in one forward pass, with gradients if they are enabled.

        Args:
            tokens: the texts as `tokenise` returned them.
            batch: the places of B texts among them.

        Returns:
            (float32 (B, L, dim), bool (B, L)): the states, special tokens included, and which of them belong to the
            text.
        """
        ...

    def weights_changed(self) -> None:
        """Forget what was computed with the former weights, such as the queries that `read_queries` remembers."""
        ...


def document_states(
    reader: BlockReader, texts: Sequence[str], *, behind: str = "", cache: DocumentCache | None = None
) -> list[DocumentStates]:
    """Read the token states of documents.

    Equal texts are read once, so that their states are equal to the last bit.

    Args:
        reader: the model. If it has no ``revision``, nothing is kept, since its weights could not be told from others.
        texts: the texts of N documents.
        behind: a text that every text sees before itself; see `BlockReader.read`. What is read after such a text is not
            kept.
        cache: the cache that gives what it keeps of these texts, and keeps what is read now. If None, nothing is kept.

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
