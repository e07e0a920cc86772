"""Models of sentence-transformers, as bi-encoders and as block readers.

A bi-encoder (Sentence-BERT; Reimers and Gurevych, 2019) makes one vector of a text. Most of them also compute a state
for each token, which Sightline defines as the embedding that the model would give a text if that token's last hidden
state were its only one. So dense layers after the pooling apply to tokens, too. A late-interaction model (ColBERT;
Khattab and Zaharia, SIGIR 2020) is made for token states: it projects them, puts markers before queries and documents,
expands queries, and leaves out punctuation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import InputError, ModelError
from .batching import token_budget_batches, tokens_at_once
from .devices import Backend, choose_backend, choose_device
from .network_reader import PROBE_TEXTS, NetworkReader
from .reader import Tokens
from .tokenizers import token_offsets
from .trained import load_trained, saved_revision

if TYPE_CHECKING:
    import torch
    from tokenizers import Encoding, Tokenizer

__all__ = [
    "LateInteractionReader",
    "SentenceTransformerEncoder",
    "SentenceTransformerReader",
    "load_sentence_transformer",
]

_Kind = Literal["query", "document"]
_PROBE = "Cats purr when they are content."
_LONGEST = 1_000_000  # what a tokenizer says that knows no limit is more
_PROMPTS: dict[str, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}


def load_sentence_transformer(
    name: str,
    *,
    truncate_dim: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    max_length: int | None = None,
    token_budget: int | None = None,
    backend: str | None = None,
) -> SentenceTransformerEncoder:
    """Load a bi-encoder: a `SentenceTransformerReader` if it has token states, else a `SentenceTransformerEncoder`.

    Args:
        name: the folder of the model, or its name on the hub.
        truncate_dim: the number of dimensions to keep of an embedding, for Matryoshka models. If None, all of them.
        device: the torch device to compute on. If None, CUDA if there is one, else the CPU.
        dtype: ``"float32"``, ``"float16"`` or ``"bfloat16"``. If None, bfloat16 on a GPU that has it, float16 on one
            that does not, and float32 on a CPU.
        revision: the branch, tag or commit to load from the hub. If None, the newest.
        max_length: the largest number of tokens that are read of a text, special tokens included. If None, what the
            model reads.
        token_budget: the number of tokens in a batch, padding included. If None,
            `sightline.models.batching.tokens_at_once`.
        backend: the library that computes the token states, ``torch``, ``onnx`` or ``openvino``; None for torch. The
            others compute on a CPU in float32.

    Raises:
        InputError: if the device or the backend cannot be used, or ``max_length`` leaves no room for a text.
        ModelError: if the model cannot be loaded, is not trained, has a similarity that is neither cosine nor dot
            product, or has no token states that another backend than torch could compute.
        MissingExtraError: if the backend is not installed.
        BackendError: if the backend cannot convert the network, or gives other states than torch.

    Example:
        >>> encoder = load_sentence_transformer("intfloat/e5-small-v2", dtype="float32")  # doctest: +SKIP
    """
    from sentence_transformers import SentenceTransformer

    library = choose_backend(backend, device, dtype)
    place = choose_device(device if library == "torch" else "cpu")
    dtype = dtype or _default_dtype(place)
    model = load_trained(
        SentenceTransformer, name, _embedding, revision=revision, dtype=dtype, device=place, truncate_dim=truncate_dim
    )
    similarity = model.similarity_fn_name
    if similarity not in ("cosine", "dot"):
        raise ModelError(f"{name}: its similarity is {similarity!r}; an index needs 'cosine' or 'dot'")
    options: dict[str, Any] = {"revision": revision, "truncate_dim": truncate_dim, "max_length": max_length}
    options["budget"] = token_budget
    if not (reason := _unreadable(model)):
        return SentenceTransformerReader(model, name, backend=library, **options)
    if library != "torch":
        raise ModelError(f"{name} has no token states, which the backend {library!r} would compute: {reason}")
    return SentenceTransformerEncoder(model, name, **options)


class SentenceTransformerEncoder:
    """A sentence-transformers model, with its query and document prompts, as an `Encoder`.

    Embeddings are normalised when the model's similarity is cosine, and left as they are when it is the dot product.

    Args:
        model: a ``SentenceTransformer``; see `load_sentence_transformer`.
        name: the name by which it was asked for.
        revision: the revision on the hub that was asked for.
        truncate_dim: the number of dimensions to keep; see `load_sentence_transformer`.
        max_length: the largest number of tokens that are read of a text; see `load_sentence_transformer`.
        budget: the number of tokens in a batch; see `load_sentence_transformer`.

    Attributes:
        reason: why the model has no token states; "" if it has.
    """

    def __init__(
        self,
        model: Any,
        name: str,
        *,
        revision: str | None = None,
        truncate_dim: int | None = None,
        max_length: int | None = None,
        budget: int | None = None,
    ) -> None:
        self.reason = _unreadable(model)
        self._model, self._truncate_dim = model, truncate_dim
        self._normalise = model.similarity_fn_name == "cosine"
        self.name = name
        self.revision = saved_revision(name, model, revision)
        if self.revision and truncate_dim:
            self.revision += f"/{truncate_dim}"
        dim: Any = truncate_dim or model.get_embedding_dimension()
        self.dim = int(dim)
        prompt = _prompt(model, "document")
        length: int | None = model.get_max_seq_length()
        # A document prompt takes room that a passage cannot have.
        self.max_length = _shorter(name, length, max_length) - len(token_offsets(model.tokenizer, prompt))
        self._budget = budget or tokens_at_once(model.device)

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        """Return the character span of every token of the text, without special tokens."""
        return token_offsets(self._model.tokenizer, text)

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Embed queries with the model's query prompt: float32 (N, dim)."""
        return self._encode(self._model.encode_query, texts)

    def encode_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Embed documents with the model's document prompt: float32 (N, dim)."""
        return self._encode(self._model.encode_document, texts)

    def _encode(self, encode: Any, texts: Sequence[str]) -> np.ndarray:
        out = np.empty((len(texts), self.dim), dtype=np.float32)
        if not texts:
            return out
        lengths = [len(ids) for ids in self._model.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]]
        for batch in token_budget_batches([min(n, self.max_length) for n in lengths], self._budget):
            out[batch] = encode(
                [texts[i] for i in batch],
                batch_size=len(batch),
                normalize_embeddings=self._normalise,
                show_progress_bar=False,
                convert_to_numpy=True,
            ).astype(np.float32)
        return out


@dataclass(frozen=True, slots=True)
class _Side:
    """How texts of one kind are tokenised.

    Args:
        prompt: what stands before each text.
        tokenizer: with special tokens and truncation, without padding. Nobody changes it, so threads may share it.
        expansion: ColBERT's query expansion, or None: the token's id, the length up to which queries are filled up,
            and whether it stands before the text.
    """

    prompt: str
    tokenizer: Tokenizer
    expansion: tuple[int, int, bool] | None = None


class _ModuleReader(NetworkReader):
    """What the readers over modules of sentence-transformers have in common."""

    revision, dim = "", 0  # until the model is known
    _attends = False  # whether tokens attend to the query expansion

    def __init__(self, model: Any, name: str, sides: dict[_Kind, tuple[int, Any]]) -> None:
        """Take a model.

        Args:
            model: a model of sentence-transformers.
            name: the name that you asked for.
            sides: the number of ids that are read of a text at most, and the query expansion, for each kind.
        """
        NetworkReader.__init__(self, model.device)
        self._model, self.name = model, name
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.config = model[0].config
        tokenizer = model.tokenizer
        pad = tokenizer.pad_token_id
        self._pad = 0 if pad is None else int(pad)
        self._plain = _private(tokenizer)
        self._sides: dict[_Kind, _Side] = {}
        for kind, (limit, expansion) in sides.items():
            own = _private(tokenizer)
            own.enable_truncation(limit)
            self._sides[kind] = _Side(_prompt(model, kind), own, expansion)
        document = self._sides["document"]
        taken = len(document.tokenizer.encode(document.prompt).ids)  # special tokens and the prompt
        if sides["document"][0] <= taken:
            raise InputError(
                f"{name} puts {taken} tokens of its own around each document, so max_length must be above that, not "
                f"{sides['document'][0]}"
            )
        self.max_length = sides["document"][0] - taken + 2  # as if special tokens were two, see `BlockReader.room`

    def _read_by(self, backend: Backend) -> None:
        """From now on let a backend compute the transformer, for inference alone. What follows it is torch's."""
        self.backend = backend
        if backend == "torch":
            from .linears import pack_linears

            pack_linears(self._model[0])
        else:
            from .backends import ConvertedNetwork

            ids = [text for text in self._tokenised(PROBE_TEXTS, "document", "").ids if text]
            self._model[0].model = ConvertedNetwork(self._model[0].model, backend, ids, self._pad)

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        """Character span of every token of the whole text, special tokens left out."""
        return self._plain.encode(text, add_special_tokens=False).offsets

    def spans(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Tokenise only: for each text, int32 (tokens, 2) character spans of the tokens that `read` would give."""
        read = self._tokenised(texts, "document", "")
        return [np.array(spans, dtype=np.int32).reshape(-1, 2) for spans in read.spans]

    def tokens(self, text: str) -> list[str]:
        """The tokens of a query that `read_queries` would give, as strings."""
        read = self._tokenised([text], "query", "")
        assert read.kept is not None
        return [self._plain.id_to_token(read.ids[0][place]) or "" for place in read.kept[0]]

    def _tokenised(self, texts: Sequence[str], kind: _Kind, behind: str) -> Tokens:
        if behind:
            raise InputError(
                f"{self.name} reads each text alone; a layout in which documents_see_query is for the embedded default"
            )
        side = self._sides[kind]
        encodings = side.tokenizer.encode_batch([side.prompt + text for text in texts])
        start = len(side.prompt)
        read = [self._places(encoding, start, side, kind) for encoding in encodings]
        truncated = [sum(len(_own(piece, start)) for piece in encoding.overflowing) for encoding in encodings]
        return Tokens(
            ids=[ids for ids, _, _, _ in read],
            lead=0,
            counts=np.array([len(kept) for _, kept, _, _ in read], dtype=np.int64),
            truncated=np.array(truncated, dtype=np.int64),
            spans=[spans for _, _, spans, _ in read],
            kept=[kept for _, kept, _, _ in read],
            expansion=[expansion for _, _, _, expansion in read],
        )

    def _places(
        self, encoding: Encoding, start: int, side: _Side, kind: _Kind
    ) -> tuple[list[int], np.ndarray, list[tuple[int, int]], np.ndarray]:
        """Ids of a text, places and spans of those whose states are kept, and which of the ids are an expansion."""
        own = _own(encoding, start)
        offsets = encoding.offsets
        spans = [(max(offsets[place][0] - start, 0), offsets[place][1] - start) for place in own]
        return encoding.ids, np.array(own, dtype=np.int64), spans, np.zeros(len(encoding.ids), dtype=bool)

    def _features(self, tokens: Tokens, batch: Sequence[int]) -> dict[str, Any]:
        """What the modules take: ids padded on the right, so that what a text is read with leaves no trace."""
        import torch

        assert tokens.expansion is not None
        length = max(len(tokens.ids[i]) for i in batch)
        ids = np.full((len(batch), length), self._pad, dtype=np.int64)
        mask, expansion = np.zeros((len(batch), length), dtype=np.int64), np.zeros((len(batch), length), dtype=bool)
        for row, i in enumerate(batch):
            count = len(tokens.ids[i])
            ids[row, :count] = tokens.ids[i]
            expansion[row, :count] = tokens.expansion[i]
            mask[row, :count] = 1
        features = {"input_ids": ids, "attention_mask": mask}
        if expansion.any():
            features["attention_mask"] = mask if self._attends else mask * ~expansion
            features["query_expansion_positions"] = expansion
        return {name: torch.from_numpy(value).to(self.device) for name, value in features.items()} | {
            "modality": "text"
        }


class SentenceTransformerReader(_ModuleReader, SentenceTransformerEncoder):
    """A bi-encoder of sentence-transformers, as `Encoder` and as block reader: one reading gives both.

    Its token states are those of the text alone: special tokens and the prompt are read, but left out. See
    `SentenceTransformerEncoder` for the arguments.

    Raises:
        InputError: if ``max_length`` leaves no room for a text.
    """

    def __init__(self, model: Any, name: str, *, backend: Backend = "torch", **options: Any) -> None:
        SentenceTransformerEncoder.__init__(self, model, name, **options)
        limit = _shorter(name, model.get_max_seq_length(), options.get("max_length"))
        _ModuleReader.__init__(self, model, name, {"query": (limit, None), "document": (limit, None)})
        modules = list(model.children())
        at = next(place for place, module in enumerate(modules) if type(module).__name__ == "Pooling")
        self._body, self._head = modules[:at], modules[at:]
        # Modules that pool without the prompt are told how long it is.
        self._excludes = not getattr(modules[at], "include_prompt", True)
        self._read_by(backend)

    def _forward(self, tokens: Tokens, batch: Sequence[int], kind: _Kind) -> tuple[list[torch.Tensor], torch.Tensor]:
        import torch

        assert tokens.kept is not None
        features = self._features(tokens, batch)
        if self._excludes and (prompt := self._sides[kind].prompt):
            features["prompt_length"] = _prompt_length(self._sides[kind], prompt)
        for module in self._body:
            features = module(features)
        hidden = features["token_embeddings"]
        for module in self._head:
            features = module(features)
        kept = [tokens.kept[i] for i in batch]
        rows = torch.cat([hidden[row, torch.from_numpy(places)] for row, places in enumerate(kept)])
        alone: dict[str, Any] = {
            "token_embeddings": rows[:, None],
            "attention_mask": torch.ones(len(rows), 1, dtype=torch.long, device=self.device),
        }
        for module in self._head if len(rows) else []:
            alone = module(alone)
        states = self._cut(alone["sentence_embedding"] if len(rows) else rows.new_empty(0, self.dim))
        pooled = self._cut(features["sentence_embedding"])
        states = torch.nn.functional.normalize(states, dim=-1)
        if self._normalise:
            pooled = torch.nn.functional.normalize(pooled, dim=-1)
        return list(states.split([len(places) for places in kept])), pooled

    def _cut(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors[:, : self.dim].float()


class LateInteractionReader(_ModuleReader):
    """A late-interaction model of sentence-transformers, PyLate or Stanford's ColBERT, as a block reader.

    Token states are the model's own multi-vectors: special tokens, markers and the query expansion are among them, and
    tokens on its skip list are not. So the largest inner product with a document's states, averaged over the query's
    states, is the model's MaxSim divided by the number of the query's states. As an `Encoder`, it gives the normalised
    mean of a text's states.

    Args:
        name: the folder of the model, or its name on the hub.
        max_length: the largest number of tokens that are read of a document, special tokens and marker included. If
            None, what the model reads.
        device: the torch device to compute on. If None, CUDA if there is one, else the CPU.
        dtype: the number format to compute in; see `load_sentence_transformer`.
        backend: the library that computes the token states; see `load_sentence_transformer`.
        revision: the branch, tag or commit to load. If None, the newest.

    Raises:
        InputError: if the device or the backend cannot be used, or ``max_length`` leaves no room for a text.
        MissingExtraError: if the backend is not installed.
        BackendError: if the backend cannot convert the network, or gives other states than torch.
        ModelError: if the model cannot be loaded, is not trained, or its token vectors cannot be matched with tokens.

    Example:
        >>> reader = LateInteractionReader("answerdotai/answerai-colbert-small-v1")  # doctest: +SKIP
    """

    def __init__(
        self,
        name: str,
        *,
        max_length: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        backend: str | None = None,
    ) -> None:
        from sentence_transformers import MultiVectorEncoder

        library = choose_backend(backend, device, dtype)
        place = choose_device(device if library == "torch" else "cpu")
        dtype = dtype or _default_dtype(place)
        model = load_trained(MultiVectorEncoder, name, _vectors, revision=revision, dtype=dtype, device=place)
        if reason := _unreadable(model, pools=False):
            raise ModelError(f"late-interaction:{name}: {reason}")
        first, whole = model[0], _shorter(name, model.get_max_seq_length(), None)
        expansion = first.query_expansion
        # As sentence-transformers does, lengths of the model's own go before the tokenizer's: PyLate's is one less.
        query, filled = first.query_length or whole, None
        if expansion is not None:
            fixed = expansion["strategy"] == "fixed"
            query = expansion["length"] if fixed else max(query, expansion["length"])
            filled = (_expansion_id(model, expansion), expansion["length"], fixed and _pads_left(model))
        self._attends = expansion is not None and bool(expansion["attend"])
        self._masks = [module for module in model.children() if type(module).__name__ == "MultiVectorMask"]
        document = _shorter(name, first.document_length or whole, max_length)
        super().__init__(model, f"late-interaction:{name}", {"query": (query, filled), "document": (document, None)})
        saved = saved_revision(name, model, revision)
        self.revision = f"{saved}/late-interaction" if saved else ""
        vectors = _vectors(model)
        self.dim = int(vectors.shape[1])
        lengths = vectors.float().norm(dim=1)
        if not bool(((lengths - 1).abs() < 1e-2).all()):
            raise ModelError(
                f"late-interaction:{name}: its token vectors are not of unit length (the first has "
                f"{float(lengths[0]):.3g}); add a Normalize module for token_embeddings to its modules.json"
            )
        self._read_by(library)

    def _places(
        self, encoding: Encoding, start: int, side: _Side, kind: _Kind
    ) -> tuple[list[int], np.ndarray, list[tuple[int, int]], np.ndarray]:
        import torch

        ids, own = list(encoding.ids), _own(encoding, start)
        filled = np.zeros(len(ids), dtype=bool)
        if side.expansion is not None:
            token, length, before = side.expansion
            missing = max(0, length - len(ids))
            added = np.ones(missing, dtype=bool)
            if before:
                ids, filled, own = [token] * missing + ids, np.concatenate([added, filled]), [missing + i for i in own]
            else:
                ids, filled = ids + [token] * missing, np.concatenate([filled, added])
        if not own:  # a text without tokens has no states, whatever the model adds to it
            return ids, np.empty(0, dtype=np.int64), [], filled
        attended = np.ones(len(ids), dtype=np.int64) if self._attends else (~filled).astype(np.int64)
        features: dict[str, Any] = {
            "input_ids": torch.tensor([ids]),
            "attention_mask": torch.from_numpy(attended)[None],
            "query_expansion_positions": torch.from_numpy(filled)[None],
        }
        for module in self._masks:
            features = module(features, task=kind)
        kept = features["attention_mask"][0].nonzero()[:, 0].numpy()
        shift = own[0] - _own(encoding, start)[0]
        of_text, ends, last = set(own), [], 0
        for place in range(len(ids)):
            begin = last
            if place in of_text:
                offset = encoding.offsets[place - shift]
                begin, last = max(offset[0] - start, 0), offset[1] - start
            ends.append((begin, last))
        return ids, kept, [ends[place] for place in kept], filled

    def _forward(self, tokens: Tokens, batch: Sequence[int], kind: _Kind) -> tuple[list[torch.Tensor], torch.Tensor]:
        import torch

        assert tokens.kept is not None
        hidden = self._model(self._features(tokens, batch), task=kind)["token_embeddings"].float()
        rows = [hidden[row, torch.from_numpy(tokens.kept[i])] for row, i in enumerate(batch)]
        means = [own.mean(dim=0) if len(own) else hidden.new_zeros(self.dim) for own in rows]
        return rows, torch.nn.functional.normalize(torch.stack(means), dim=-1)


def _unreadable(model: Any, *, pools: bool = True) -> str:
    """Why the states of a model's tokens cannot be had; "" if they can.

    Args:
        model: of sentence-transformers.
        pools: whether it is a bi-encoder, which pools them.
    """
    first, kinds = model[0], [type(module).__name__ for module in model.children()]
    if kinds[0] != "Transformer" or first.module_output_name != "token_embeddings":
        return f"its first module, a {kinds[0]}, gives no states of tokens"
    if not getattr(model.tokenizer, "is_fast", False):
        return "it has no fast tokenizer; one is needed to tell which characters a token covers"
    if model.tokenizer.truncation_side != "right":
        return "it cuts texts at their beginning"
    if "message" in first.modality_config:
        return "it reads texts through a chat template"
    if any(first.processing_kwargs.values()):
        return "it has options of its own for its tokenizer (processing_kwargs)"
    if any(kind.endswith("TokenPooling") for kind in kinds):
        return "it pools the vectors of several tokens, so that none can be told to be of a token"
    if pools and "Pooling" not in kinds:
        return "it has no Pooling module behind its tokens"
    return ""


def _own(encoding: Encoding, start: int) -> list[int]:
    """Places of the tokens of a text that begins at a character; special tokens and the prompt before it left out."""
    return [
        place
        for place, (special, (begin, end)) in enumerate(
            zip(encoding.special_tokens_mask, encoding.offsets, strict=True)
        )
        if not special and (end > start or begin >= start)
    ]


def _private(tokenizer: Any) -> Tokenizer:
    """A copy of a fast tokenizer that nobody else changes, without padding and truncation."""
    from tokenizers import Tokenizer

    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy


def _prompt(model: Any, kind: _Kind) -> str:
    """What sentence-transformers puts before a query or a document."""
    prompts: dict[str, str | None] = model.prompts or {}
    named = [name for name in _PROMPTS[kind] if name in prompts] or [model.default_prompt_name]
    return prompts.get(named[0]) or ""


def _prompt_length(side: _Side, prompt: str) -> int:
    """How many ids stand before a text's own, as sentence-transformers counts them."""
    encoding = side.tokenizer.encode(prompt)
    return len(encoding.ids) - int(encoding.special_tokens_mask[-1])


def _shorter(name: str, own: int | None, asked: int | None) -> int:
    """How many ids are read of a text at most."""
    length = 512 if own is None or own > _LONGEST else int(own)
    if asked is None:
        return length
    if asked < 3:
        raise InputError(f"max_length of {name} must be at least 3, not {asked}")
    return min(length, asked)


def _expansion_id(model: Any, expansion: dict[str, Any]) -> int:
    tokenizer = model.tokenizer
    if expansion["token"] is not None:
        return int(tokenizer.convert_tokens_to_ids(expansion["token"]))
    return int(tokenizer.eos_token_id if tokenizer.mask_token_id is None else tokenizer.mask_token_id)


def _pads_left(model: Any) -> bool:
    return bool(model.tokenizer.padding_side == "left")


def _default_dtype(place: torch.device) -> str:
    import torch

    if place.type != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


def _embedding(model: Any) -> Any:
    return model.encode([_PROBE], convert_to_tensor=True, show_progress_bar=False)


def _vectors(model: Any) -> Any:
    return model.encode_document(_PROBE, show_progress_bar=False)
