"""The embedded default reranker: block reading by all-MiniLM-L6-v2, scored by attention over its last hidden states.

Documents are read alone, so their token states do not depend on the query and can be kept. The attention is softmax
over cosines between the query's tokens and all tokens of all candidates; see `Layout` for the readouts.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from ..documents import Document
from ..errors import InputError, ModelError
from ..files import share_files
from ..models.minilm import MiniLM, load_minilm, native_dtype
from .base import Candidate, as_documents
from .layout import Layout, check_model, load_layout
from .ranking import check_request, first_of_each_id, order_by_score
from .results import (
    DocumentStates,
    Evidence,
    Ranked,
    Ranking,
)

if TYPE_CHECKING:
    import torch

    from ..kernels import Keys
    from .learnt import LearntReadout

__all__ = ["LateInteractionReranker"]

logger = logging.getLogger(__name__)

_WEIGHTS = "model.safetensors"


class LateInteractionReranker:
    """Ranks by the attention mass of the default model's token states; implements `Reranker`.

    Args:
        layout: a `Layout` or the name of one.
        model: the reader, or None to load the default model.
        readout: what was learnt, for layouts whose readout is that.
        dtype: that a loaded model computes with, see `MiniLM`. None for float32, so that states which are kept are the
            same wherever they were read; but of layouts that keep nothing for `sightline.models.minilm.native_dtype`.
        device: a torch device for a loaded model; None for CUDA where there is one, else CPU.

    Raises:
        InputError: if the layout and the readout do not go together.

    Example:
        >>> ranking = LateInteractionReranker().rank("what sound do cats make", ["Dogs bark.", "Cats purr."])
        >>> ranking[0].document.text
        'Cats purr.'
    """

    def __init__(
        self,
        layout: Layout | str = "minilm",
        model: MiniLM | None = None,
        readout: LearntReadout | None = None,
        *,
        dtype: str | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        self.layout = load_layout(layout) if isinstance(layout, str) else layout
        check_model(self.layout, "minilm")
        if (self.layout.readout == "learnt") != (readout is not None):
            raise InputError(
                f"layout {self.layout.name!r} reads {self.layout.readout!r}, which "
                + ("no learnt weights go with" if readout else "needs learnt weights: load the folder they are in")
            )
        self.name = self.layout.name
        self.model = self.reads = model or load_minilm(
            self.layout.max_block_tokens, _name(device), dtype or _default_dtype(self.layout)
        )
        self.readout = readout

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        dtype: str | None = None,
        device: str | torch.device | None = None,
        **changes: Any,
    ) -> LateInteractionReranker:
        """Load what was trained: ``layout.yaml`` and ``model.safetensors``.

        Args:
            folder: with both.
            dtype: see above.
            device: see above.
            changes: fields of the layout to replace.

        Raises:
            ModelError: if the weights are missing, damaged, or of something else.
            InputError: if the layout is not valid.
        """
        return cls(*_load_trained(Path(folder), changes, dtype, device), dtype=dtype, device=device)

    def save(self, folder: str | Path) -> None:
        """Write ``layout.yaml`` and ``model.safetensors`` into a folder, for `load`; weights in half precision.

        What the published model has is not written: only what was learnt.
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        weights: dict[str, torch.Tensor] = {}
        if self.readout is not None:
            weights |= {f"readout.{name}": value.detach() for name, value in self.readout.state_dict().items()}
        if self.model.trained is not None:
            weights |= {f"encoder.{name}": value.half() for name, value in self.model.trained.items()}
        save_file({name: value.cpu().contiguous() for name, value in weights.items()}, folder / _WEIGHTS)
        share_files(folder / _WEIGHTS)
        text = yaml.safe_dump(self.layout.as_dict(), sort_keys=False, allow_unicode=True)
        (folder / "layout.yaml").write_text(text, encoding="utf-8")

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
        """See `Reranker.rank`."""
        import torch

        from ..kernels import states_backend
        from .learnt import LearntSignal
        from .signal import NOTHING, AttentionSignal, by_document

        started = time.perf_counter()
        blocks = check_request(query, documents, top_n, evidence)
        if states is not None and len(states) != len(blocks):
            raise InputError(
                f"{len(blocks)} documents came with {len(states)} kept states; give one, or None, for each"
            )
        read = self.model.read_queries([query])[0]
        assert read.states is not None
        if not len(read.states):
            raise InputError(f"the query {query!r} has no token to attend with; ask something")
        q = torch.from_numpy(read.states)  # (S, D)
        if not self.layout.keepable:  # what was kept has not seen this query
            states = None
        known = self._states(query, blocks, states or [None] * len(blocks))
        keys = [block.keys for block in known]
        shapes = [_values(key).shape for key in keys]
        for block, shape in zip(blocks, shapes, strict=True):
            if len(shape) != 2 or shape[1] != q.shape[1]:
                raise InputError(
                    f"document {block.id!r} came with kept states of shape {tuple(shape)}, not (tokens, {q.shape[1]})"
                )
        there = [i for i, shape in enumerate(shapes) if shape[0]]
        signal = AttentionSignal() if self.readout is None else LearntSignal(self.readout)
        reading = signal(q, [keys[i] for i in there], self.layout)
        scores, mass, shares = [NOTHING] * len(blocks), [0.0] * len(blocks), [[0.0] * len(q)] * len(blocks)
        for i, *of in zip(
            there,
            reading.scores.tolist(),
            by_document(reading.shares).tolist(),
            reading.shares.T.tolist(),
            strict=True,
        ):
            scores[i], mass[i], shares[i] = of
        order, warnings = order_by_score(blocks, documents, scores, set(range(len(blocks))) - set(there))
        if read.truncated[0]:
            warnings.append(f"the last {read.truncated[0]} tokens of the query were not read")
        if best_per_id:
            order = first_of_each_id(order, blocks)
        kept = order[:top_n]
        marks = self._evidence(blocks, keys, reading.rows, reading.normaliser, kept, evidence)
        for warning in warnings:
            logger.info("%s: %s", query[:80], warning)
        return Ranking(
            query=query,
            items=tuple(
                Ranked(blocks[i], i, scores[i], mass[i], known[i].truncated, marks.get(i), tuple(shares[i]))
                for i in kept
            ),
            total=len(blocks),
            query_tokens=tuple(self.model.tokens(query)),
            truncated=sum(block.truncated > 0 for block in known),
            layout=self.layout.name,
            model=self.model.name,
            revision=self.model.revision,
            dtype=_dtypes(keys, states or [None] * len(keys), self.model.dtype),
            backend=states_backend(),
            seconds=time.perf_counter() - started,
            warnings=tuple(warnings),
        )

    def rank_batch(
        self,
        lists: Sequence[tuple[str, Sequence[Candidate]]],
        top_n: int | None = None,
        *,
        evidence: Literal["sentence", "token"] | None = None,
    ) -> list[Ranking]:
        """See `Reranker.rank_batch`. Documents are read once for all lists; everything else is per list."""
        if not self.layout.keepable:
            return [self.rank(query, documents, top_n, evidence=evidence) for query, documents in lists]
        converted = [as_documents(documents) for _, documents in lists]
        distinct = {block.contents: block for blocks in converted for block in blocks}
        read = dict(zip(distinct, self._states("", list(distinct.values()), [None] * len(distinct)), strict=True))
        return [
            self.rank(query, documents, top_n, evidence=evidence, states=[read[block.contents] for block in blocks])
            for (query, documents), blocks in zip(lists, converted, strict=True)
        ]

    def _states(
        self, query: str, blocks: Sequence[Document], kept: Sequence[DocumentStates | None]
    ) -> list[DocumentStates]:
        """States of every document, reading those that were not kept."""
        import torch

        # Equal texts are read once, so that duplicates get equal scores to the last bit.
        texts = list(dict.fromkeys(b.contents for b, k in zip(blocks, kept, strict=True) if k is None and not b.empty))
        nothing = DocumentStates(torch.empty(0, self.model.dim), 0)
        fresh: dict[str, DocumentStates] = {}
        if texts:
            behind = self.layout.instruction.replace("{query}", query)
            read = self.model.read(texts, behind=behind) if behind else self.model.read(texts)
            assert read.states is not None
            for i, text in enumerate(texts):
                rows = torch.from_numpy(read.states[read.offsets[i] : read.offsets[i + 1]])
                fresh[text] = DocumentStates(rows, int(read.truncated[i]))
        return [k or fresh.get(b.contents, nothing) for b, k in zip(blocks, kept, strict=True)]

    def _evidence(
        self,
        blocks: Sequence[Document],
        keys: Sequence[Keys],
        q: torch.Tensor,
        normaliser: torch.Tensor,
        wanted: Sequence[int],
        level: Literal["sentence", "token"] | None,
    ) -> dict[int, tuple[Evidence, ...]]:
        if level is None:
            return {}
        from ..kernels import states_attention
        from .evidence import find_evidence

        marks = {}
        for i, spans in zip(wanted, self.model.spans([blocks[i].contents for i in wanted]), strict=True):
            mass = states_attention(q, keys[i], normaliser.float(), scale=self.layout.scale).numpy()
            if not self.layout.keepable:  # behind the query there is less room
                spans = spans[: len(mass)]
            if len(mass) != len(spans):
                raise InputError(
                    f"document {blocks[i].id!r} has {len(spans)} tokens but came with {len(mass)} kept states; "
                    "they are of another text"
                )
            marks[i] = find_evidence(blocks[i], spans, mass, level)
        return marks


def _load_trained(
    folder: Path, changes: dict[str, Any], dtype: str | None, device: str | torch.device | None
) -> tuple[Layout, MiniLM | None, LearntReadout | None]:
    """Layout, model (None for the published one) and readout (None for one without weights) of a folder."""
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
    readout = LearntReadout.of(own, scale=layout.scale, source=path) if own else None
    if len(own) + len(encoder) < len(weights) or not weights:
        raise ModelError(f"{path}: these are not weights that sightline train wrote for minilm")
    model = None
    if encoder:
        revision = f"sha256:{hashlib.sha256(data).hexdigest()}"
        dtype = dtype or _default_dtype(layout)
        model = MiniLM(
            device=device, max_length=layout.max_block_tokens, dtype=dtype, trained=encoder, revision=revision
        )
    return layout, model, readout


def _values(key: Keys) -> torch.Tensor:
    from ..kernels import QuantizedKeys

    return key.values if isinstance(key, QuantizedKeys) else key


def _name(device: str | torch.device | None) -> str | None:
    """A device by its name, so that one model serves all that ask for the same."""
    return None if device is None else str(device)


def _default_dtype(layout: Layout) -> str:
    return "float32" if layout.keepable else native_dtype(None)


def _dtypes(keys: Sequence[Keys], kept: Sequence[DocumentStates | None], read: str) -> str:
    names = {
        read if k is None else str(_values(key).dtype).removeprefix("torch.") for key, k in zip(keys, kept, strict=True)
    }
    return "+".join(sorted(names)) or read
