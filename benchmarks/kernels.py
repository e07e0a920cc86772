"""Times the kernels beside every peer on the same tensors, in one run, after checking that all compute the same.

    python -m sightline.benchmarks.kernels --out results.json

On a GPU: Mistral-7B, Qwen3-0.6B and MiniLM shapes with 20, 100 and 500 documents. On a CPU: shapes that a CPU can do.
Weights and activations are random: only shapes matter for speed. Peers that cannot run are named, with why.
"""

from __future__ import annotations

import inspect
import json
import logging
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Column, Table

from ..kernels import block_attention, block_lse, choose
from ..kernels.attention.reference import block_attention as reference_attention
from ..kernels.lse.reference import lse as reference_lse
from ..kernels.packing import DOCUMENT, SEEN, Context, Packing

__all__ = ["PEERS", "Case", "Shape", "run"]

logger = logging.getLogger(__name__)
console = Console(soft_wrap=True)
app = typer.Typer(add_completion=False)

_SEED = 0
_MAX_MASK_BYTES = 12 * 2**30  # a bool per pair of tokens, and what torch makes of it, must fit beside the rest
_CPU_SECONDS = 1.0  # that one method is timed for on a CPU


class Shape(NamedTuple):
    """Of one layer: query heads, key heads, head dimension, width, width of the feed-forward layer, its matrices."""

    query_heads: int
    key_heads: int
    dim: int
    hidden: int
    inner: int
    inner_matrices: int
    causal: bool


class Case(NamedTuple):
    """One list of documents for one shape."""

    shape: str
    documents: int
    lengths: str
    tokens: int
    instruction: int
    query: int

    def layout(self, device: str) -> Packing:
        """Its layout: documents of ``tokens`` tokens, or for ``ragged`` of a tenth to twice as many, evenly."""
        draw = random.Random(_SEED)
        low, high = self.tokens // 10, self.tokens * 2
        counts = [self.tokens if self.lengths == "uniform" else draw.randint(low, high) for _ in range(self.documents)]
        causal = SHAPES[self.shape].causal
        return Packing([Context(counts, [self.query], self.instruction)], causal=causal, device=device)


SHAPES = {
    "mistral-7b": Shape(32, 8, 128, 4096, 14336, 3, True),
    "qwen3-0.6b": Shape(16, 8, 128, 1024, 3072, 3, True),
    "minilm": Shape(12, 12, 32, 384, 1536, 2, False),
}
_GPU_CASES = [
    Case(shape, documents, lengths, 200, 128, 64)
    for shape in SHAPES
    for documents in (20, 100, 500)
    for lengths in ("uniform", "ragged")
]
_CPU_CASES = [
    Case("minilm", 32, "uniform", 128, 32, 16),
    Case("minilm", 32, "ragged", 128, 32, 16),
    Case("qwen3-0.6b", 16, "uniform", 192, 64, 16),
    Case("qwen3-0.6b", 16, "ragged", 192, 64, 16),
]


class Unable(Exception):  # noqa: N818 - not an error of ours
    """A peer that cannot run here; the text says why."""


Attention = Callable[[], torch.Tensor]  # -> out (T, Hq, D)


def ours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Packing, scale: float) -> Attention:
    """`block_attention`, as dispatched."""
    return lambda: block_attention(q, k, v, layout, scale=scale)[0]


def sdpa_masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Packing, scale: float) -> Attention:
    """Torch's attention with the dense boolean mask, made beforehand."""
    if (size := layout.tokens**2) > _MAX_MASK_BYTES:
        raise Unable(f"its mask takes {size / 2**30:.0f} GiB")
    mask = layout.mask()
    k, v = _ungrouped(q, k, v)
    return lambda: _sdpa(q, k, v, scale=scale, attn_mask=mask)


def sdpa_dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Packing, scale: float) -> Attention:
    """Torch's attention without blocks: every token sees all before it (all, for encoders). Another result."""
    return lambda: _sdpa(q, k, v, scale=scale, is_causal=layout.causal)


def padded(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Packing, scale: float) -> Attention:
    """One batch of all documents padded to the longest, each behind a copy of the instruction; the rest by SDPA."""
    k, v = _ungrouped(q, k, v)
    (context,) = layout.contexts
    first, count = context.instruction, len(context.documents)
    starts = torch.tensor([start for *_, start, _ in layout.spans(DOCUMENT)], device=q.device)
    sizes = torch.tensor(context.documents, device=q.device)
    place = torch.arange(int(sizes.max()), device=q.device)
    rows = starts[:, None] + torch.minimum(place, sizes[:, None] - 1)  # (N, L)
    real = place < sizes[:, None]
    keys = torch.cat([torch.arange(first, device=q.device).expand(count, first), rows], dim=1)  # (N, I + L)
    own = torch.ones(len(place), len(place), dtype=torch.bool, device=q.device)
    own = own.tril()[None] if layout.causal else real[:, None, :].expand(count, len(place), -1)
    before = torch.ones(own.shape[0], len(place), first, dtype=torch.bool, device=q.device)
    mask = torch.cat([before, own], dim=2)[:, None]
    packed = rows[real]
    end = layout.tokens - context.queries[0]
    last = torch.ones(layout.tokens - end, layout.tokens, dtype=torch.bool, device=q.device)
    last = last.tril(end) if layout.causal else last

    def attend() -> torch.Tensor:
        out = torch.empty_like(q)
        out[packed] = _sdpa(q[rows], k[keys], v[keys], scale=scale, attn_mask=mask)[real]
        if first:
            out[:first] = _sdpa(q[:first], k[:first], v[:first], scale=scale, is_causal=layout.causal)
        out[end:] = _sdpa(q[end:], k, v, scale=scale, attn_mask=last)
        return out

    return attend


def flex(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Packing, scale: float) -> Attention:
    """FlexAttention, compiled, with the same mask; the fastest of three block sizes that work."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    owner = layout.owner(np.arange(layout.tokens))
    start, stop, before, until = (
        torch.from_numpy(layout.blocks[field][owner]).to(q.device, torch.int32) for field in SEEN
    )
    causal = layout.causal

    def sees(b: Any, h: Any, i: Any, j: Any) -> Any:
        own = (j >= start[i]) & ((j <= i) if causal else (j < stop[i]))
        return own | ((j >= before[i]) & (j < until[i]))

    heads = [x.transpose(0, 1)[None].contiguous() for x in (q, k, v)]
    cuda = q.device.type == "cuda"
    torch._dynamo.reset()
    compiled: Any = torch.compile(flex_attention, dynamic=False)
    best: tuple[float, Attention] | None = None
    failures = []
    for size in ((128, 128), (64, 64), (128, 64)) if cuda else ((128, 128),):
        try:
            mask = create_block_mask(
                sees, None, None, layout.tokens, layout.tokens, device=q.device, BLOCK_SIZE=size, _compile=cuda
            )

            def attend(mask: Any = mask) -> torch.Tensor:
                out = compiled(*heads, block_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
                return out[0].transpose(0, 1)

            seconds = _seconds({"flex": attend}, q.device)["flex"]
        except Exception as error:  # whatever the compiler says is the peer's answer
            failures.append(f"blocks of {size}: {type(error).__name__}: {str(error).splitlines()[0][:120]}")
            continue
        if best is None or seconds < best[0]:
            best = seconds, attend
    if best is None:
        raise Unable("; ".join(failures))
    return best[1]


def varlen(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Packing, scale: float) -> Attention:
    """`torch.nn.attention.varlen`: own blocks, then prefixes, merged by log-sum-exp."""
    try:
        from torch.nn.attention.varlen import AuxRequest, varlen_attn
    except ImportError:
        raise Unable("this torch has no torch.nn.attention.varlen") from None
    if q.device.type != "cuda":
        raise Unable("it runs on CUDA only")
    attend_varlen: Any = varlen_attn  # its arguments differ between versions
    known = inspect.signature(attend_varlen).parameters
    group = q.shape[1] // k.shape[1]
    if "enable_gqa" in known:
        shared: dict[str, Any] = {"enable_gqa": group > 1}
    else:
        shared, k, v = {}, k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    if "scale" in known:
        shared["scale"] = scale
    elif abs(scale - q.shape[2] ** -0.5) > 1e-9:
        raise Unable("it takes no scale in this version of torch")
    own = {"is_causal": layout.causal} if "is_causal" in known else {"window_size": (-1, 0 if layout.causal else -1)}
    (context,) = layout.contexts
    first, end = context.instruction, layout.tokens - context.queries[0]

    def bounds(*at: int) -> torch.Tensor:
        return torch.tensor(at, dtype=torch.int32, device=q.device)

    blocks = bounds(0, *layout.blocks["stop"].tolist())
    longest = int((layout.blocks["stop"] - layout.blocks["start"]).max())
    documents, queries = bounds(0, end - first), bounds(0, layout.tokens - end)
    instruction, everything = bounds(0, first), bounds(0, end)
    aux = AuxRequest(lse=True)

    def call(*args: Any, **more: Any) -> tuple[torch.Tensor, torch.Tensor]:
        out, lse = attend_varlen(*args, return_aux=aux, **shared, **more)
        return out, lse if lse.shape[0] == len(out) else lse.T

    def attend() -> torch.Tensor:
        out, lse = call(q, k, v, blocks, blocks, longest, longest, **own)
        parts = [(slice(end, None), queries, everything, end)]
        if first:
            parts.append((slice(first, end), documents, instruction, first))
        for rows, cu_q, cu_k, keys in parts:
            far, far_lse = call(q[rows], k[:keys], v[:keys], cu_q, cu_k, len(q[rows]), keys)
            weight = torch.sigmoid(far_lse - lse[rows])[..., None].to(out.dtype)
            out[rows] = out[rows] * (1 - weight) + far * weight
        return out

    return attend


def _sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
    """Torch's attention on (..., tokens, heads, D), with or without a batch."""
    op: Any = torch.nn.functional.scaled_dot_product_attention
    if q.ndim == 3:
        return _sdpa(q[None], k[None], v[None], **options)[0]
    return op(*(x.transpose(1, 2) for x in (q, k, v)), enable_gqa=True, **options).transpose(1, 2)


def _ungrouped(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> list[torch.Tensor]:
    """Keys and values; on a GPU with heads repeated, because torch's fused kernels there take no mask with groups."""
    group = q.shape[1] // k.shape[1] if q.device.type == "cuda" else 1
    return [x.repeat_interleave(group, dim=1) for x in (k, v)]


PEERS: dict[str, Callable[..., Attention]] = {
    "sightline": ours,
    "SDPA, boolean mask": sdpa_masked,
    "SDPA, padded batch": padded,
    "FlexAttention": flex,
    "varlen_attn + merge": varlen,
    "SDPA, dense": sdpa_dense,
}
_OTHER_MASK = {"SDPA, dense"}


def run(case: Case, device: str, dtype: torch.dtype, peers: list[str]) -> dict[str, Any]:
    """Check and time one case.

    Args:
        case: the shape and the list.
        device: "cuda" or "cpu".
        dtype: of the tensors.
        peers: names out of `PEERS`.

    Returns:
        JSON-ready figures: times in ms, rates, ratios, and why peers could not run.
    """
    shape = SHAPES[case.shape]
    layout = case.layout(device)
    generator = torch.Generator(device).manual_seed(_SEED)
    heads = shape.query_heads + 2 * shape.key_heads
    fused = torch.randn(layout.tokens, heads, shape.dim, generator=generator, device=device, dtype=dtype)
    q, k, v = fused.split([shape.query_heads, shape.key_heads, shape.key_heads], dim=1)
    scale = shape.dim**-0.5

    wanted, _ = reference_attention(q.float(), k.float(), v.float(), layout, scale)
    methods, errors, unable = {}, {}, {}
    for name in peers:
        try:
            methods[name] = PEERS[name](q, k, v, layout, scale)
            got = methods[name]()
        except (Unable, RuntimeError) as why:
            methods.pop(name, None)
            unable[name] = str(why).splitlines()[0][:300]
            continue
        if name not in _OTHER_MASK:
            errors[name] = float((got.float() - wanted).square().mean().sqrt())
            if errors[name] > 20 * torch.finfo(dtype).eps * float(wanted.square().mean().sqrt()):
                raise AssertionError(f"{name} is wrong on {case}: root mean square error {errors[name]}")
    del wanted
    signal, signal_error = _signal(case, q, k, layout, scale)
    seconds = _seconds(methods, layout.device) | {"block_lse": _seconds({"": signal}, layout.device)[""]}
    linear = _linear(shape, layout.tokens, device, dtype)
    rate, bandwidth = _machine(device, dtype)
    flops = 4 * shape.dim * shape.query_heads * layout.pairs
    read = k.numel() * k.element_size()
    moved = 2 * q.numel() * q.element_size() + 2 * read + 4 * q.shape[0] * q.shape[1]  # q, out, k, v, lse, once each
    return {
        "case": case._asdict() | {"total_tokens": layout.tokens},
        "backend": choose(device, dtype, shape.dim).backend,
        "dtype": str(dtype).removeprefix("torch."),
        "ms": {name: 1e3 * value for name, value in seconds.items()},
        "ratio": {name: seconds[name] / seconds["sightline"] for name in methods if name != "sightline"},
        "unable": unable,
        "rms_error": errors,
        "useful_tflops": {name: flops / seconds[name] / 1e12 for name in methods if name not in _OTHER_MASK},
        "share_of_matmul_rate": flops / seconds["sightline"] / rate,
        "least_bytes": moved,
        "share_of_bandwidth": moved / seconds["sightline"] / bandwidth,
        "block_lse": {
            "bytes": read,
            "bytes_per_s": read / seconds["block_lse"],
            "share_of_bandwidth": read / seconds["block_lse"] / bandwidth,
            "limit_ms": 1e3 * read / bandwidth,
            "largest_error": signal_error,
        },
        "layer_linear_ms": 1e3 * linear,
        "matmul_tflops": rate / 1e12,
        "bandwidth_gb_s": bandwidth / 1e9,
    }


def _signal(
    case: Case, q: torch.Tensor, k: torch.Tensor, layout: Packing, scale: float
) -> tuple[Callable[[], torch.Tensor], float]:
    """The last two query tokens' log-sum-exps, as BlockRank reads them, and their largest error."""
    layout = layout.with_signal([layout.tokens - 2, layout.tokens - 1])
    rows = q[layout.signal]
    wanted = reference_lse(rows.float(), k.float(), layout, scale, "documents")
    error = float((block_lse(rows, k, layout, scale=scale) - wanted).abs().max())
    if error > 1e-3:
        raise AssertionError(f"block_lse is wrong on {case}: off by {error}")
    return (lambda: block_lse(rows, k, layout, scale=scale)), error


def _linear(shape: Shape, tokens: int, device: str, dtype: torch.dtype) -> float:
    """Seconds of one layer's matrix products: query, key, value, output, feed-forward."""
    attention = shape.query_heads * shape.dim
    sizes = [(shape.hidden, attention + 2 * shape.key_heads * shape.dim), (attention, shape.hidden)]
    sizes += [(shape.hidden, shape.inner)] * (shape.inner_matrices - 1) + [(shape.inner, shape.hidden)]
    weights = [torch.randn(a, b, device=device, dtype=dtype) for a, b in sizes]
    inputs = {a: torch.randn(tokens, a, device=device, dtype=dtype) for a, _ in sizes}

    def layer() -> torch.Tensor:
        for weight in weights:
            out = inputs[weight.shape[0]] @ weight
        return out

    return _seconds({"": layer}, torch.device(device))[""]


_machines: dict[tuple[str, torch.dtype], tuple[float, float]] = {}


def _machine(device: str, dtype: torch.dtype) -> tuple[float, float]:
    """FLOP/s of a large matrix product, and bytes/s of a large copy (read plus written), measured here."""
    if (device, dtype) not in _machines:
        size, cells = (8192, 2**30) if device == "cuda" else (2048, 2**26)
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        x, y = (torch.zeros(cells, device=device, dtype=torch.float32) for _ in range(2))
        there = torch.device(device)
        product = _seconds({"": lambda: a @ b}, there)[""]
        copy = _seconds({"": lambda: y.copy_(x)}, there)[""]
        _machines[device, dtype] = 2 * size**3 / product, 2 * 4 * cells / copy
    return _machines[device, dtype]


def _seconds(methods: dict[str, Callable[[], torch.Tensor]], device: torch.device) -> dict[str, float]:
    """Median seconds of each method. On a CPU they take turns, so that a machine whose speed drifts favours none."""
    if device.type == "cuda":
        from triton.testing import do_bench

        return {name: do_bench(op, warmup=50, rep=200, return_mode="median") / 1e3 for name, op in methods.items()}
    times: dict[str, list[float]] = {name: [] for name in methods}
    with torch.inference_mode():
        for op in methods.values():
            op()
        while any(sum(taken) < _CPU_SECONDS or len(taken) < 5 for taken in times.values()):
            for name, op in methods.items():
                started = time.perf_counter()
                op()
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken) for name, taken in times.items()}


def _versions(device: str) -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
    try:
        import triton

        found["triton"] = triton.__version__
    except ImportError:
        found["triton"] = "not installed"
    if device == "cuda":
        return found | {"device": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}
    return found | {"device": "CPU", "threads": str(torch.get_num_threads())}


def _show(result: dict[str, Any]) -> None:
    """One case as a table, peers that could not run below it."""
    case = result["case"]
    total = f"{case['total_tokens']:,} tokens, {result['dtype']}, {result['backend']}"
    table = Table(
        Column("", no_wrap=True), "ms", "ratio", "TFLOP/s", "of matmul", "of copy", "rms error",
        title=f"{case['shape']}: {case['documents']} documents, {case['tokens']} tokens {case['lengths']} ({total})",
        title_justify="left", box=None, pad_edge=False,
    )  # fmt: skip
    for name, ms in result["ms"].items():
        if name not in result["ratio"] and name != "sightline":
            continue
        useful, error = result["useful_tflops"].get(name), result["rms_error"].get(name)
        table.add_row(
            name,
            f"{ms:.3f}",
            f"{result['ratio'].get(name, 1.0):.2f}",
            "" if useful is None else f"{useful:.3g}",
            "" if useful is None else f"{useful / result['matmul_tflops']:.0%}",
            "" if useful is None else f"{result['least_bytes'] / ms / result['bandwidth_gb_s'] / 1e6:.0%}",
            "other mask" if error is None else f"{error:.1e}",
        )
    signal = result["block_lse"]
    table.add_row("block_lse", f"{result['ms']['block_lse']:.3f}", "", "", "", f"{signal['share_of_bandwidth']:.0%}")
    table.add_row("the layer's linear work", f"{result['layer_linear_ms']:.3f}")
    console.print(table)
    for name, why in result["unable"].items():
        console.print(f"could not run {name}: {why}", markup=False)
    console.print()


@app.command()
def main(
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda" if torch.cuda.is_available() else "cpu",
    shape: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(SHAPES)}; all by default.")] = None,
    documents: Annotated[list[int] | None, typer.Option(help="Only cases of so many documents.")] = None,
    peer: Annotated[list[str] | None, typer.Option(help=f"Of {'; '.join(PEERS)}; all by default.")] = None,
) -> None:
    """Check, then time, the kernels and their peers on the same tensors.

    TFLOP/s count only the pairs of tokens that the mask lets through; "of matmul" and "of copy" are shares of the rates
    measured here, the latter as if every tensor were moved once.
    """
    cases = [
        case
        for case in (_GPU_CASES if device == "cuda" else _CPU_CASES)
        if (not shape or case.shape in shape) and (not documents or case.documents in documents)
    ]
    peers = list(dict.fromkeys(["sightline", *(peer or PEERS)]))
    if unknown := [name for name in peers if name not in PEERS]:
        raise typer.BadParameter(f"there is no peer {unknown[0]!r}; there is {'; '.join(PEERS)}")
    if not cases:
        raise typer.BadParameter("no case is left to run")
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    results = []
    for case in cases:
        results.append(run(case, device, dtype, peers))
        _show(results[-1])
    last = results[-1]
    console.print(f"measured: {last['matmul_tflops']:.3g} TFLOP/s matmul, {last['bandwidth_gb_s']:.0f} GB/s copy")
    if out:
        report = {
            "command": " ".join(
                ["python -m sightline.benchmarks.kernels", *(x.rpartition("/")[2] for x in sys.argv[1:])]
            ),
            "versions": _versions(device),
            "seed": _SEED,
            "results": results,
        }
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app()
