"""Reranking by late interaction: each document is read alone, and scored by attention over its token states.

Token states do not depend on the query, so they can be kept. The attention is softmax over cosines between the query's
tokens and all tokens of all candidates; see `Layout` for the readouts. Late interaction is ColBERT's term (Khattab and
Zaharia, SIGIR 2020), whose MaxSim is one of the readouts.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from ..documents import Document
from ..errors import InputError, ModelError
from ..files import share_files
from ..models.cache import DocumentCache
from ..models.devices import native_dtype
from ..models.loading import load_reader
from ..models.minilm import MiniLM
from ..models.reader import BlockReader, DocumentStates, TokenStates, document_states
from ..retrieval.bm25 import background_bm25
from .base import Request, Reranker, Scored
from .hub import download, push_to_hub
from .layout import Layout, check_kind, load_layout
from .results import NOTHING

if TYPE_CHECKING:
    import torch

    from ..kernels import Keys
    from .learnt import LearntReadout
    from .readout import Reading

__all__ = ["LateInteractionReranker"]

_WEIGHTS = "model.safetensors"


class LateInteractionReranker(Reranker):
    """Ranks by the attention on token states that a block reader gives, without reading documents together.

    Args:
        layout: a `Layout` or the name of one.
        reader: the model that reads queries and documents. If None, the one that the layout names.
        readout: the trained readout, for layouts whose readout is ``learnt``.
        name: the name that you asked for. If None, the layout's.
        dtype: the number format of a reader that is loaded here. If None, the reader's default, which is float32 for
            the embedded one, so that kept states are the same wherever they were read; for layouts that keep nothing,
            `native_dtype`.
        backend: the library that computes a reader that is loaded here, ``torch``, ``onnx`` or ``openvino``; None for
            torch. See `load_reader`.
        device: the torch device for a reader that is loaded here. If None, CUDA if there is one, else the CPU.
        cache: a cache that keeps the token states of documents for later lists, if the layout reads documents
            independently of the query. If None, nothing is kept.

    Raises:
        InputError: if the layout and the readout do not go together, or there is a cache and documents see the query in
            this layout.

    Example:
        >>> ranking = LateInteractionReranker().rank("what sound do cats make", ["Dogs bark.", "Cats purr."])
        >>> ranking[0].document.text
        'Cats purr.'
    """

    has_evidence = True
    concurrent = True

    def __init__(
        self,
        layout: Layout | str = "minilm",
        reader: BlockReader | None = None,
        readout: LearntReadout | None = None,
        *,
        name: str | None = None,
        dtype: str | None = None,
        device: str | torch.device | None = None,
        backend: str | None = None,
        cache: DocumentCache | None = None,
    ) -> None:
        self.spec = load_layout(layout) if isinstance(layout, str) else layout
        check_kind(self.spec, "late-interaction")
        self.layout, self.readout = self.spec.name, self.spec.readout.readout
        if (self.readout == "learnt") != (readout is not None):
            raise InputError(
                f"layout {self.layout!r} reads {self.readout!r}, which "
                + ("no learnt weights go with" if readout else "needs learnt weights: load the folder they are in")
            )
        self.name = name or self.layout
        self.reader: BlockReader = reader or load_reader(
            self.spec.reader,
            max_length=self.spec.max_block_tokens or None,
            device=_name(device),
            dtype=dtype or _default_dtype(self.spec, backend),
            backend=backend,
        )
        if readout is not None and readout.dim not in (None, self.reader.dim):
            raise InputError(
                f"layout {self.layout!r} learnt from states of {readout.dim} numbers, and those of {self.reader.name} "
                f"have {self.reader.dim}; load it with the reader that it was trained with"
            )
        self.window, self.model, self.revision = self.reader, self.reader.name, self.reader.revision
        self.learnt = readout
        self.keepable = self.spec.keepable
        if cache is not None and not self.keepable:
            raise InputError(
                f"layout {self.layout!r} shows documents the query, so they cannot be kept; choose another, or leave "
                "the cache out"
            )
        self.keep_documents(cache)
        self.list_free = self.spec.list_free and (readout is None or readout.list_free)
        if self.spec.relevance is not None and not self.list_free:
            raise InputError(
                f"layout {self.layout!r} has relevance, but its learnt weights score documents relative to their list; "
                "take relevance out of the layout"
            )
        self.calibration, weights = self.spec.relevance, self.spec.readout.weights
        self.uses_bm25 = weights is not None and weights.bm25 != 0

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        revision: str | None = None,
        dtype: str | None = None,
        device: str | torch.device | None = None,
        backend: str | None = None,
        cache: DocumentCache | None = None,
        **changes: Any,
    ) -> LateInteractionReranker:
        """Load a trained reranker: ``layout.yaml`` and ``model.safetensors``.

        Args:
            folder: the folder with both files, or OWNER/NAME of a repository that `push_to_hub` wrote.
            revision: the branch, tag or commit of a repository. If None, the newest. A folder has none.
            dtype: the number format of the reader; see `LateInteractionReranker`.
            device: the torch device of the reader; see `LateInteractionReranker`.
            backend: the library that computes the reader; see `LateInteractionReranker`.
            cache: a cache for token states; see `LateInteractionReranker`.
            changes: fields of the layout to replace, by name.

        Raises:
            ModelError: if the weights are missing, damaged, or belong to something else.
            InputError: if the layout is not valid.
        """
        found = None if Path(folder).is_dir() else download(str(folder), revision)
        trained = _load_trained(found or Path(folder), changes, dtype, device, backend)
        return cls(*trained, dtype=dtype, device=device, backend=backend, cache=cache)

    def push_to_hub(self, repository: str, *, revision: str | None = None, private: bool | None = None) -> str:
        """Upload what `save_pretrained` writes; see `sightline.rerank.push_to_hub`."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_to_hub(folder, repository, revision=revision, private=private)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``layout.yaml`` and ``model.safetensors``, in half precision, into a folder for `from_pretrained`.

        Only what was trained is written, not the weights of the published model.
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights: dict[str, torch.Tensor] = {}
        if self.learnt is not None:
            weights |= {f"readout.{name}": value.detach() for name, value in self.learnt.state_dict().items()}
        if (trained := self.reader.trained) is not None:
            weights |= {f"encoder.{name}": value.half() for name, value in trained.items()}
        save_file({name: value.cpu().contiguous() for name, value in weights.items()}, folder / _WEIGHTS)
        share_files(folder / _WEIGHTS)
        text = yaml.safe_dump(self.spec.as_dict(), sort_keys=False, allow_unicode=True)
        (folder / "layout.yaml").write_text(text, encoding="utf-8")

    def _score(self, lists: Sequence[Request]) -> list[Scored]:
        """Queries are read together, and documents that are in several lists once; everything else is per list."""
        questions = self.reader.read_queries([request.query for request in lists])
        asked = list(zip(lists, questions, strict=True))
        if not self.spec.keepable:  # what was kept, or read for another list, has not seen this query
            return [self._scored(one, question, self._read([one], one.query)) for one, question in asked]
        read = self._read(lists, "")
        return [self._scored(one, question, read) for one, question in asked]

    def _read(self, lists: Sequence[Request], query: str) -> dict[str, DocumentStates]:
        """The states, by text, of every document that comes without."""
        texts = dict.fromkeys(
            document.contents
            for request in lists
            for document, kept in zip(request.documents, _states(request), strict=True)
            if kept is None or not self.spec.keepable
        )
        behind = query if self.spec.documents_see_query else ""
        return dict(zip(texts, document_states(self.reader, list(texts), behind=behind, cache=self.cache), strict=True))

    def _scored(self, request: Request, question: TokenStates, read: dict[str, DocumentStates]) -> Scored:
        import torch

        from ..kernels import states_backend
        from .readout import order_free_mean, row_shares

        assert question.states is not None
        if not len(question.states):
            raise InputError(f"the query {request.query!r} has no token to attend with; give a query with a word in it")
        q = torch.from_numpy(question.states)  # (S, D)
        known = [
            kept if kept is not None and self.spec.keepable else read[document.contents]
            for document, kept in zip(request.documents, _states(request), strict=True)
        ]
        places = _with_tokens(request.documents, known, q.shape[1])
        keys = [known[i].keys for i in places]
        with torch.inference_mode():
            reading, values = self._attend(q, keys, self._bm25(request, known, places))
            normaliser = reading.normaliser[:, 0].float()
            attended = row_shares(reading, self.spec.readout)
        scores, mass, shares = np.full(len(known), NOTHING), np.zeros(len(known)), np.zeros((len(q), len(known)))
        scores[places] = values.numpy()
        mass[places] = order_free_mean(attended).numpy()
        shares[:, places] = attended.numpy()

        def attention(place: int) -> tuple[np.ndarray, np.ndarray]:
            assert reading.products is not None
            of_tokens = reading.products.attention(places.index(place), normaliser, self.spec.readout.scale)
            return self._spans(request.documents[place], known[place]), of_tokens.numpy()

        cut = int(question.truncated[0])
        return Scored(
            scores,
            mass,
            shares,
            tuple(self.reader.tokens(request.query)),
            [states.truncated for states in known],
            set(range(len(known))) - set(places),
            attention,
            _dtypes(known, _states(request) if self.spec.keepable else [None] * len(known), self.reader.dtype),
            states_backend() if self.reader.backend == "torch" else f"{self.reader.backend}+{states_backend()}",
            (f"the last {cut} tokens of the query were not read",) if cut else (),
        )

    def _attend(self, q: torch.Tensor, keys: Sequence[Keys], bm25: Sequence[float]) -> tuple[Reading, torch.Tensor]:
        """What the query saw, and the documents' scores."""
        from .readout import document_scores, read_states
        from .signals import fused_scores, read_signals

        spec = self.spec.readout
        if self.learnt is not None:
            rows = self.learnt.ask(q, keys)
            reading = self.learnt.read(rows, keys)
            return reading, self.learnt.scores(q, reading)
        if spec.weights is not None:
            reading, signals = read_signals(q, keys, bm25, spec.weights, scale=spec.scale)
            return reading, fused_scores(signals, spec.weights)
        reading = read_states(q, keys, scale=spec.scale, largest=spec.readout == "maxsim")
        return reading, document_scores(reading, spec)

    def _bm25(self, request: Request, known: Sequence[DocumentStates], places: Sequence[int]) -> list[float]:
        """BM25 of the documents at some places: as given, or by the shipped word statistics; 0 where it has no part."""
        if not self.uses_bm25:
            return [0.0] * len(places)
        if request.bm25 is None:
            return background_bm25(request.query, [self._read_part(request.documents[i], known[i]) for i in places])
        return [request.bm25[i] for i in places]

    def _read_part(self, document: Document, states: DocumentStates) -> str:
        """The text up to the last token that was read."""
        if not states.truncated:
            return document.contents
        spans = self._spans(document, states)
        return document.contents[: int(spans[-1, 1]) if len(spans) else 0]

    def _spans(self, document: Document, states: DocumentStates) -> np.ndarray:
        """The characters that each of a document's states covers: as they came with it, or by tokenising its text."""
        from ..kernels.states.keys import stored_values

        count = len(stored_values(states.keys))
        if states.spans is not None:
            spans = states.spans.astype(np.int32)
        else:
            spans = self.reader.spans([document.contents])[0]
            if not self.spec.keepable:  # behind the query there is less room
                spans = spans[:count]
        if len(spans) != count or (count and int(spans[-1, 1]) > len(document.contents)):
            raise InputError(
                f"document {document.id!r} has {len(spans)} tokens but came with {count} kept states; "
                "they belong to another text"
            )
        return spans


def _states(request: Request) -> list[DocumentStates | None]:
    """The token states that came with the documents."""
    return [state if isinstance(state, DocumentStates) else None for state in request.states]


def _with_tokens(documents: Sequence[Document], states: Sequence[DocumentStates], dim: int) -> list[int]:
    """Places of the documents that have a token.

    Raises:
        InputError: if states are of another shape than the reader's.
    """
    from ..kernels.states.keys import stored_values

    places = []
    for place, (document, state) in enumerate(zip(documents, states, strict=True)):
        shape = tuple(stored_values(state.keys).shape)
        if len(shape) != 2 or shape[1] != dim:
            raise InputError(f"document {document.id!r} came with kept states of shape {shape}, not (tokens, {dim})")
        if shape[0]:
            places.append(place)
    return places


def _load_trained(
    folder: Path, changes: dict[str, Any], dtype: str | None, device: str | torch.device | None, backend: str | None
) -> tuple[Layout, BlockReader | None, LearntReadout | None]:
    """Layout, reader (None for the published one) and readout (None for one without weights) of a folder."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    from .learnt import LearntReadout

    layout = load_layout(folder / "layout.yaml", **changes)
    path = folder / _WEIGHTS
    try:
        data = path.read_bytes()
        weights = load(data)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read as weights ({error}); train or copy the folder again") from error
    own = {name.removeprefix("readout."): value for name, value in weights.items() if name.startswith("readout.")}
    encoder = {name.removeprefix("encoder."): value for name, value in weights.items() if name.startswith("encoder.")}
    readout = LearntReadout.of(own, scale=layout.readout.scale, source=path) if own else None
    if len(own) + len(encoder) < len(weights) or not weights:
        raise ModelError(f"{path}: these are not weights that sightline train wrote for a reranker of this kind")
    reader = None
    if encoder:
        reader = MiniLM(
            device=device,
            max_length=layout.max_block_tokens or 256,
            dtype=dtype or _default_dtype(layout, backend) or "float32",
            backend=backend,
            trained=encoder,
            revision=f"sha256:{hashlib.sha256(data).hexdigest()}",
        )
    return layout, reader, readout


def _name(device: str | torch.device | None) -> str | None:
    """A device by its name, so that one model serves all that ask for the same."""
    return None if device is None else str(device)


def _default_dtype(layout: Layout, backend: str | None) -> str | None:
    """The reader's own where states are kept, or another backend than torch computes them in float32."""
    return None if layout.keepable or backend not in (None, "torch") else native_dtype(None)


def _dtypes(states: Sequence[DocumentStates], kept: Sequence[DocumentStates | None], read: str) -> str:
    from ..kernels.states.keys import stored_values

    found = {None if old is None else stored_values(state.keys).dtype for state, old in zip(states, kept, strict=True)}
    names = {read if dtype is None else str(dtype).removeprefix("torch.") for dtype in found}
    return "+".join(sorted(names)) or read
