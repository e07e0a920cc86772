"""Passes over kept documents, recorded once as CUDA graphs and then replayed.

Behind kept documents, a pass computes no more than a query's few tokens. A GPU does that faster than the host starts
the kernels, some twenty in every layer. A graph starts all of them at once. It always reads and writes the same memory,
so what differs between lists is written there before each replay: the tokens, the tables of the layout, the places of
the keys and values.

A graph serves all lists of a `Bucket`: those that have as much room in it as they need. What a list does not fill is
passed over by the kernels, or is cut off from what they give.
"""

from __future__ import annotations

import functools
import textwrap
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ...errors import ModelError
from ...kernels import Context, choose
from ...kernels.threads import idle_threads
from ...models.decoder import Decoder
from ..readout import Reading
from .forward import Gathered, Layouts, ListPass, Packed, Readings, Wanted, pack
from .kept import Behind, KeptBlock, alike
from .prompt import Prompt

__all__ = ["Bucket", "Graphs", "Recorder", "cuda_graph"]

_GRAPHS = 16  # that are held at a time
_STEP = 16  # of the numbers of query tokens and of signal tokens in a bucket
_REASON = 300  # characters of a message of CUDA, which may go on for pages

_recording = threading.Lock()  # torch records one graph at a time in a process

T = TypeVar("T")


class Recorder(Protocol):
    """Records what the GPU does; `cuda_graph` is one."""

    def __call__(self, run: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """Record a function.

        Args:
            run: the function, which has run before: kernels are compiled, and tables made. It is called several times.

        Returns:
            A function that has the GPU do the same again with the same memory, and what ``run`` returned when it was
            recorded. Its tensors hold results after each replay only.
        """
        ...


def cuda_graph(run: Callable[[], T]) -> tuple[Callable[[], None], T]:
    """Record a function as a CUDA graph; see `Recorder`, and https://docs.pytorch.org/docs/stable/notes/cuda.html."""
    stream, graph = _side_stream(torch.cuda.current_device()), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with _recording, torch.cuda.stream(stream):  # torch itself stays on the stream when a recording fails
        run()  # libraries make room for their work on this stream, which must outlive the graph
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):  # other threads may go on
            result = run()
    torch.cuda.current_stream().wait_stream(stream)
    return graph.replay, result


@functools.cache
def _side_stream(device: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


class _Recordable(TorchDispatchMode):
    """Refuses operations that wait for numbers on the host, as no recorded one can.

    A recording that fails in the middle would leave torch's allocator in disorder (up to torch 2.11).
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        # Indices need numbers only where they are masks.
        tags = () if func is torch.ops.aten.index.Tensor and not _masks(args[1]) else func.tags
        if torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags:
            raise RuntimeError(f"{func} waits for numbers on the host")
        return func(*args, **kwargs)


def _masks(indices: Sequence[torch.Tensor | None]) -> bool:
    return any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in indices)


class Bucket(NamedTuple):
    """What lists have in common that share a graph: the room that they need, and what cannot be rewritten.

    Args:
        documents: the columns of what is read; each list leaves one free.
        instruction: whether there is an instruction.
        kept: the tokens of the instruction and the documents.
        queries: the tokens of each query block.
        signal: the number of signal tokens.
        signalled: the query blocks that have any.
        gaps: whether tokens of documents do not count, so that attention and signal see two layouts.
        memory: the dtype and the shape (slots, Hkv, D) of what is kept of a token.
        scope: what is read.
    """

    documents: int
    instruction: bool
    kept: int
    queries: tuple[int, ...]
    signal: int
    signalled: tuple[int, ...]
    gaps: bool
    memory: tuple[object, ...]
    scope: str

    @classmethod
    def of(cls, packed: Packed, scope: Wanted, like: torch.Tensor) -> Bucket:
        """Return the bucket of a list.

        Args:
            packed: the list, laid out.
            scope: what is read.
            like: the tensor of all slots of one of its kept blocks.
        """
        layouts = packed.call.layouts
        packing = layouts.signal
        queries = [_up(tokens) for tokens in packing.contexts[0].queries]
        first = len(packing.blocks) - len(queries)  # query blocks come last
        signalled = sorted(set((packing.signal_blocks - first).tolist()))
        signal = _up(len(packing.signal_rows))
        # Always one token more than signal tokens: a last layer that computes all tokens would not look which they are.
        queries[signalled[-1]] = max(queries[signalled[-1]], _up(signal + 1))
        documents = _power(packing.documents + 1)
        return cls(
            documents,
            packing.contexts[0].instruction > 0,
            _power(max(layouts.attention.first, documents) + 1),
            tuple(queries),
            signal,
            tuple(signalled),
            layouts.attention.blocks is not packing.blocks,
            (like.dtype, like.device, len(like), *like.shape[2:]),
            repr(scope),
        )


class Graphs:
    """Graphs of passes over kept documents, the latest of which are held.

    Weights that change in place change what graphs compute. A model that was moved needs new graphs.

    Args:
        decoder: the model that reads.
        record: what records a pass.

    Raises:
        ModelError: if the Triton kernels cannot read the model, or it is not on one CUDA device, and passes are to be
            recorded as CUDA graphs.
    """

    def __init__(self, decoder: Decoder, record: Recorder = cuda_graph) -> None:
        devices = {parameter.device for parameter in decoder.model.parameters()}
        if record is cuda_graph and (len(devices) > 1 or decoder.device.type != "cuda"):
            where = ", ".join(sorted(map(str, devices)))
            raise ModelError(f"CUDA graphs need a model on one CUDA device, and {decoder.name!r} is on {where}")
        backend, why = choose(decoder.device, decoder.dtype, decoder.head_dim)
        if backend != "triton":  # the others look into layouts on the host
            raise ModelError(
                f"CUDA graphs need the backend 'triton', and {decoder.name!r} is read by {backend!r} ({why}); load it "
                "without cuda_graphs=True"
            )
        self.decoder, self._record = decoder, record
        self._graphs: OrderedDict[Bucket, _Graph] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._graphs)

    def read(self, prompt: Prompt, scope: Wanted, kept: Sequence[KeptBlock]) -> Reading | None:
        """Read a list behind kept documents; see `sightline.rerank.decoder.forward.read`.

        Returns:
            The reading; None if its blocks are kept in another format than the model computes in, since they are then
            decoded in every pass; or if the query has no signal token.
        """
        wholes, decoder = alike(kept), self.decoder
        if wholes is None or (wholes[0].dtype, wholes[0].device) != (decoder.dtype, decoder.device):
            return None
        packed = pack([prompt], scope, kept)
        if not len(packed.call.signal_rows):
            return None
        bucket = Bucket.of(packed, scope, wholes[0])
        with self._lock, torch.inference_mode(), idle_threads():
            graph = self._graphs.pop(bucket, None) or _Graph(decoder, bucket, scope, wholes[0], self._record)
            self._graphs[bucket] = graph
            if len(self._graphs) > _GRAPHS:
                self._graphs.popitem(last=False)
            [reading] = graph.read(packed, kept)
        return reading


class _Graph:
    """A recorded pass over a list that fills a bucket, and the memory that it reads."""

    def __init__(self, decoder: Decoder, bucket: Bucket, scope: Wanted, like: torch.Tensor, record: Recorder) -> None:
        tokens, device = sum(bucket.queries), decoder.device
        # As many documents as there may be, one of them empty: a document that a row does not see must be allowed for.
        instruction, short = int(bucket.instruction), bucket.documents - 2
        long = bucket.kept - instruction - short
        context = Context([long, *[1] * short, 0], bucket.queries, instruction)
        starts = bucket.kept + np.cumsum((0, *bucket.queries[:-1]))
        *others, last = (int(starts[block]) for block in bucket.signalled)
        rows = [*others, *range(last, last + bucket.signal - len(others))]
        positions = np.zeros(bucket.kept + tokens, dtype=np.int64)
        spans = [context] if bucket.gaps else None
        layouts = Layouts([context], False, rows, positions, spans, bucket.kept, spare=tokens)
        columns = range(bucket.documents - 1 if bucket.gaps else bucket.documents)
        self._behind = Behind.reserve(like, bucket.kept, tokens)
        self._readings = Readings(scope, layouts.signal, [columns])
        self._call = ListPass(layouts, self._readings, self._behind)
        self._call.signal_rows = self._call.signal_rows.to(device)
        self._ids, self._positions = (torch.zeros(tokens, dtype=torch.int64, device=device) for _ in range(2))

        def run() -> Gathered:
            self._readings.complete = False
            decoder.run(self._ids, self._positions, self._call)
            return self._readings.gather()

        try:
            with torch.cuda.device_of(self._ids):
                run()  # compiles kernels and makes tables, which cannot be recorded
                if not decoder.compiled:  # compiled code would be compiled anew, without success
                    check: Any = _Recordable  # torch's own modes have no types
                    with check():
                        run()
                self._replay, self._gathered = record(run)
        except RuntimeError as error:  # what CUDA and torch raise
            # The end of a recording that failed fails, too, and says less.
            cause = error.__context__ if isinstance(error.__context__, RuntimeError) else error
            reason = textwrap.shorten(str(cause), _REASON, placeholder=" ...")
            raise ModelError(
                f"passes of {decoder.name!r} cannot be recorded: {reason}; load it without cuda_graphs=True (serve: "
                "without --cuda-graphs)"
            ) from error

    def read(self, packed: Packed, kept: Sequence[KeptBlock]) -> list[Reading]:
        """Replay the pass for a list of the bucket."""
        call = packed.call
        for mine, theirs in (
            (self._ids, packed.ids),
            (self._positions, packed.positions),
            (self._call.signal_rows, call.signal_rows),
        ):
            mine[: len(theirs)].copy_(theirs)
            mine[len(theirs) :].zero_()  # a model may look at all, as for the largest position
        self._call.layouts.rewrite(call.layouts)
        self._readings.rewrite(call.readings)
        self._behind.rewrite(kept)
        self._replay()
        lse, normaliser, largest, tokens = self._gathered
        rows, documents = len(call.signal_rows), call.layouts.signal.documents
        return call.readings.split(
            Gathered(
                lse[:rows, :, :documents],
                normaliser[:rows],
                None if largest is None else largest[:rows, :, :documents],
                None if tokens is None else tokens[..., : sum(call.layouts.signal.document_tokens)],
            )
        )


def _up(count: int) -> int:
    return -(-count // _STEP) * _STEP


def _power(count: int) -> int:
    return 1 << (count - 1).bit_length()
