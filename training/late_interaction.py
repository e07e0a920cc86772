"""Train the embedded default: what its query block asks and how answers are read, or its encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import nn

from ..errors import InputError
from ..extras import importing
from ..models.batching import token_budget_batches
from ..models.loading import absolute_name, load_reader
from ..models.minilm import MiniLM
from ..models.network_reader import NetworkReader
from ..models.reader import BlockReader, Tokens, TokenStates, TrainableReader
from ..rerank.late_interaction import LateInteractionReranker
from ..rerank.layout import load_layout
from ..rerank.learnt import LearntReadout, Part
from ..rerank.readout import document_scores, read_states
from .learner import Output, TrainingList

__all__ = ["LateInteractionLearner", "RememberingReader"]

_TOKENS = 2048  # read with gradients at once


class LateInteractionLearner:
    """Trains `sightline.rerank.learnt.LearntReadout`, the encoder, or both; implements `Learner`.

    It trains the attention of the embedded default, the layout ``minilm-log-mass``. Cosine and BM25, which ``minilm``
    adds, have no part in it. A trained reranker is list-free unless ``parts`` has ``heads`` or ``read``, and has no
    relevance until `sightline calibrate` has fitted the two numbers.

    With a frozen encoder, every document is read once and remembered, and a step is a few products of matrices.

    Args:
        parts: the parts of the readout; see `LearntReadout`. Empty for the readout of the layout.
        encoder: the way that the encoder is trained: ``frozen``, not at all; ``lora``, by adapters in all its layers
            (Hu et al., 2021; needs the extra ``training``); or ``full``, all of it but the embeddings of tokens.
        rank: the rank of LoRA's matrices.
        prefix: whether documents see the query, so that they are read anew for each one. This is stronger if trained
            for it, but slower, and nothing can be kept.
        max_tokens: the number of tokens of a document that are read while the encoder is trained. Rerankers read as
            much as the layout says.
        remember: the number of tokens of documents whose states are kept while training, at 768 bytes each for
            ``minilm``.
        precision: the number format in which texts are read without gradients. ``bfloat16`` is faster on processors
            that have it. With gradients, the loop's precision counts.
        name: the name of the trained model, which its layout gets.
        reader: the model that reads the texts. If None, ``model``. To be trained, it must be a `TrainableReader`.
        model: the name of the model, for `load_reader`, whose token states the readout learns to read. Encoders other
            than ``minilm`` stay frozen.

    Attributes:
        temperature: the temperature of the loss, 1, since scores are logarithms.
        learning_rate: the highest learning rate: 1e-3 for a readout on a frozen encoder, else 1e-4.

    Raises:
        InputError: if there is nothing to train, or an option is out of range.
        MissingExtraError: if you ask for LoRA and peft is not installed.

    Example:
        >>> learner = LateInteractionLearner(parts=["weights"])
        >>> list(learner.parameters())
        ['readout.weigh']
    """

    temperature = 1.0

    def __init__(
        self,
        parts: Sequence[Part] = ("weights", "heads"),
        *,
        encoder: Literal["frozen", "lora", "full"] = "frozen",
        rank: int = 16,
        prefix: bool = False,
        max_tokens: int = 128,
        remember: int = 6_000_000,
        precision: Literal["float32", "bfloat16"] = "float32",
        name: str = "trained",
        reader: TrainableReader | RememberingReader | None = None,
        model: str = "minilm",
    ) -> None:
        if encoder not in ("frozen", "lora", "full"):
            raise InputError(f"encoder is 'frozen', 'lora' or 'full', not {encoder!r}")
        if precision not in ("float32", "bfloat16"):
            raise InputError(f"precision is 'float32' or 'bfloat16', not {precision!r}")
        if encoder == "frozen" and not parts:
            raise InputError("a frozen encoder without parts of the readout has nothing to learn")
        if model != "minilm" and (encoder != "frozen" or prefix):
            raise InputError(
                f"of {model}, only the readout is trained, so leave encoder 'frozen' and prefix empty; train the model "
                "itself with sentence-transformers or PyLate, and name what that wrote"
            )
        if rank < 1 or max_tokens < 1 or remember < 0:
            raise InputError("rank and max_tokens must be at least 1, remember at least 0")
        changes: dict[str, Any] = {"name": name} | ({"documents_see_query": True} if prefix else {})
        if parts:
            changes["readout"] = "learnt"
        if model != "minilm":
            changes |= {"reader": absolute_name(model), "max_block_tokens": 0}
        self.layout = load_layout("minilm-log-mass", **changes)
        self.name, self.encoder, self._max_tokens = name, encoder, max_tokens
        self.learning_rate = 1e-3 if encoder == "frozen" else 1e-4
        if reader is None and model != "minilm":
            reader = RememberingReader(load_reader(model, dtype=precision), remember)
        elif reader is None:
            # An object of its own: nobody else may see what is trained.
            own = MiniLM(max_length=self.layout.max_block_tokens or 256, dtype=precision)
            reader = RememberingReader(own, remember) if encoder == "frozen" else own
        self.reader = reader
        self.readout = LearntReadout(parts, self.reader.dim, self.layout.readout.scale) if parts else None
        self._parameters: dict[str, nn.Parameter] = {}
        if self.readout is not None:
            self.readout.to(self.reader.device)
            self._parameters |= {f"readout.{key}": value for key, value in self.readout.named_parameters()}
        self._adapted: Any = None
        if encoder != "frozen":
            self._parameters |= self._unfreeze(rank)

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """See `Learner.parameters`."""
        return self._parameters

    def __call__(self, lists: Sequence[TrainingList]) -> Output:
        """Score lists; see `Learner.__call__`."""
        return Output([self._score(training_list) for training_list in lists])

    def reranker(self) -> LateInteractionReranker:
        """See `Learner.reranker`."""
        if self.encoder != "frozen":
            self._trainable.weights_changed()
        return LateInteractionReranker(self.layout, self.reader, self.readout)

    def save(self, folder: Path) -> None:
        """See `Learner.save`."""
        if self.encoder != "frozen":
            self._trainable.trained = self._trained()
        self.reranker().save_pretrained(folder)

    @property
    def _trainable(self) -> TrainableReader:
        """The reader, to be trained.

        Raises:
            InputError: if it remembers states, which training would make wrong.
        """
        if isinstance(self.reader, RememberingReader):
            raise InputError("a reader that remembers what it read cannot be trained; leave the encoder frozen")
        return self.reader

    # -- scores ------------------------------------------------------------------------------------------------------

    def _score(self, training_list: TrainingList) -> torch.Tensor:
        states = self._read([document.contents for document in training_list.documents], training_list.query)
        if self.encoder == "frozen":
            read = self.reader.read_queries([training_list.query])[0].states
            assert read is not None
            q = torch.from_numpy(read).to(self.reader.device)
        else:
            [q] = self._read([training_list.query], "")
        if not len(q):
            raise InputError(f"the query {training_list.query!r} has no token to attend with")
        # Cosines are compared by hundredths, which bfloat16 does not have.
        with torch.autocast(self.reader.device.type, enabled=False):
            if self.readout is None:
                spec = self.layout.readout
                return document_scores(read_states(q, states, scale=spec.scale), spec)
            scores: torch.Tensor = self.readout(q, states)
            return scores

    def _read(self, texts: Sequence[str], query: str) -> list[torch.Tensor]:
        """Unit token states of each text; with gradients where the encoder is trained."""
        behind = query if self.layout.documents_see_query else ""
        if self.encoder == "frozen":
            read = self.reader.read(texts, behind=behind)
            assert read.states is not None
            packed = torch.from_numpy(read.states).to(self.reader.device)
            return list(packed.split(np.diff(read.offsets).tolist()))
        tokens = self._trainable.tokenise(texts, behind=behind)
        room = tokens.lead + self._max_tokens
        ids = [[*text_ids[:room], text_ids[-1]] if len(text_ids) > room + 1 else text_ids for text_ids in tokens.ids]
        tokens = Tokens(ids, tokens.lead, np.minimum(tokens.counts, self._max_tokens), tokens.truncated, [])
        out: dict[int, torch.Tensor] = {}
        for batch in token_budget_batches([len(text_ids) for text_ids in ids], _TOKENS):
            hidden, _ = self._trainable.hidden(tokens, batch)
            unit = nn.functional.normalize(hidden, dim=-1)
            for row, i in enumerate(batch):
                out[i] = unit[row, tokens.lead : tokens.lead + int(tokens.counts[i])]
        return [out[i] for i in range(len(ids))]

    # -- the encoder -------------------------------------------------------------------------------------------------

    def _unfreeze(self, rank: int) -> dict[str, nn.Parameter]:
        network = self._trainable.network
        if self.encoder == "lora":
            with importing("peft", extra="training"):
                from peft import LoraConfig, get_peft_model
            torch.manual_seed(0)
            targets = ["query", "key", "value", "dense"]
            self._adapted = get_peft_model(network, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets))
        trained = (self._adapted or network).named_parameters()
        unfrozen = {
            key: value for key, value in trained if ("lora_" in key) == (self.encoder == "lora") and "embed" not in key
        }
        for value in unfrozen.values():
            value.requires_grad_(True)
        return {f"encoder.{key}": cast(nn.Parameter, value) for key, value in unfrozen.items()}

    def _trained(self) -> dict[str, torch.Tensor]:
        """The encoder's weights that differ from the published ones, adapters merged into them."""
        if self.encoder == "full":
            return {
                key.removeprefix("encoder."): value.detach()
                for key, value in self._parameters.items()
                if key.startswith("encoder.")
            }
        merged = {}
        for key, module in self._adapted.base_model.model.named_modules():
            if hasattr(module, "get_delta_weight"):
                delta = module.get_delta_weight("default")
                merged[f"{key}.weight"] = (module.base_layer.weight + delta).detach()
        return merged


class RememberingReader(BlockReader):
    """A reader that remembers the token states of what it has read.

    Args:
        reader: the reader for texts that are new.
        tokens: the number of tokens that are remembered, in float16. Once that is full, it forgets all.
    """

    def __init__(self, reader: NetworkReader, tokens: int) -> None:
        self.name, self.revision = reader.name, reader.revision
        self.dim, self.max_length = reader.dim, reader.max_length
        self.dtype, self.config, self.device = reader.dtype, reader.config, reader.device
        self._reader = reader
        self._room_left = self._tokens = tokens
        self._known: dict[str, tuple[np.ndarray, TokenStates]] = {}

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        """See `BlockReader.token_offsets`."""
        return self._reader.token_offsets(text)

    def tokens(self, text: str) -> list[str]:
        """See `BlockReader.tokens`."""
        return self._reader.tokens(text)

    def read_queries(self, texts: Sequence[str]) -> list[TokenStates]:
        """See `BlockReader.read_queries`."""
        return self._reader.read_queries(texts)

    def read(
        self,
        texts: Sequence[str],
        *,
        kind: Literal["query", "document"] = "document",
        states: bool = True,
        behind: str = "",
    ) -> TokenStates:
        """See `BlockReader.read`."""
        if not self._tokens or behind or not states:
            return self._reader.read(texts, kind=kind, states=states, behind=behind)
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        fresh = dict(self._split(self._reader.read(new), new)) if new else {}
        readings = [fresh.get(text) or self._known[text] for text in texts]
        for text, (half, rest) in fresh.items():
            if len(half) > self._room_left:
                self._known, self._room_left = {}, self._tokens
            self._known[text] = (half, rest)
            self._room_left -= len(half)
        counts = [len(half) for half, _ in readings]
        return TokenStates(
            np.concatenate([half for half, _ in readings], dtype=np.float32, casting="unsafe"),
            np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
            np.concatenate([rest.spans for _, rest in readings]),
            np.concatenate([rest.pooled for _, rest in readings]),
            np.concatenate([rest.truncated for _, rest in readings]),
        )

    @staticmethod
    def _split(read: TokenStates, texts: Sequence[str]) -> Iterator[tuple[str, tuple[np.ndarray, TokenStates]]]:
        assert read.states is not None
        for i, (text, (a, b)) in enumerate(zip(texts, pairwise(read.offsets.tolist()), strict=True)):
            place = slice(i, i + 1)
            rest = TokenStates(None, np.array([0, b - a]), read.spans[a:b], read.pooled[place], read.truncated[place])
            yield text, (read.states[a:b].astype(np.float16), rest)
