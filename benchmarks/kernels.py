"""Times the kernels beside every peer on the same tensors, in one run, after checking that all compute the same.

    python -m sightline.benchmarks.kernels --out results.json

On a GPU: Mistral-7B, Qwen3-0.6B and MiniLM shapes with 20, 100 and 500 documents. On a CPU: shapes that a CPU can do.
Weights and activations are random: only shapes matter for speed. Peers that cannot run are named, with why.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console
from rich.table import Column, Table

from ..eval.timing import MatmulRate, copy_rate, matmul_rate
from ..kernels import block_attention, block_lse, choose
from ..kernels.attention.reference import block_attention as reference_attention
from ..kernels.lse.reference import lse as reference_lse
from ..kernels.packing import Context, Packing
from .peers import OTHER_MASK, PEERS, Attention, Unable
from .timing import command_line, machine, seconds_in_turns

__all__ = ["Case", "Shape", "packed_tensors", "run"]

console = Console(soft_wrap=True)
app = typer.Typer(add_completion=False)

_SEED = 0


class Shape(NamedTuple):
    """One layer's query heads, key heads, head dimension, width, feed-forward width and number of its matrices."""

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

    def layout(self, device: str, causal: bool | None = None) -> Packing:
        """The list as a packing: documents of ``tokens`` tokens or, if ``ragged``, of a tenth to twice as many.

        Args:
            device: where the kernels will look for the offsets.
            causal: whether blocks are causal; by default as in models of this shape.
        """
        draw = random.Random(_SEED)
        low, high = self.tokens // 10, self.tokens * 2
        counts = [self.tokens if self.lengths == "uniform" else draw.randint(low, high) for _ in range(self.documents)]
        causal = SHAPES[self.shape].causal if causal is None else causal
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


def run(case: Case, device: str, dtype: torch.dtype, peers: list[str]) -> dict[str, Any]:
    """Check and time one case.

    Args:
        case: the shape and the list.
        device: "cuda" or "cpu".
        dtype: the number format of the tensors.
        peers: names in `PEERS`.

    Returns:
        JSON-ready figures: times in ms, rates, ratios, and why peers could not run.
    """
    shape = SHAPES[case.shape]
    layout = case.layout(device)
    q, k, v = packed_tensors(shape, layout.tokens, device, dtype)
    scale = shape.dim**-0.5

    methods, errors, unable = _checked(case, peers, q, k, v, layout, scale)
    parts = _parts(q, k, v, layout, scale)
    signal, signal_error = _signal(case, q, k, layout, scale)
    seconds = seconds_in_turns(methods, device) | {"block_lse": seconds_in_turns({"": signal}, device)[""]}
    part_seconds = seconds_in_turns({name: attend for name, (attend, _) in parts.items()}, device)
    linear = _linear(shape, layout.tokens, device, dtype)
    rate, bandwidth = rates(device, dtype)
    of_a_pair = 4 * shape.dim * shape.query_heads
    flops = of_a_pair * layout.pairs
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
        "useful_tflops": {name: flops / seconds[name] / 1e12 for name in methods if name not in OTHER_MASK},
        "parts": {
            name: {
                "ms": 1e3 * part_seconds[name],
                "useful_tflops": of_a_pair * pairs / part_seconds[name] / 1e12,
            }
            for name, (_, pairs) in parts.items()
        },
        "share_of_matmul_rate": flops / seconds["sightline"] / rate.flops,
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
        "matmul_tflops": rate.flops / 1e12,
        "matmul_by": rate.by,
        "bandwidth_gb_s": bandwidth / 1e9,
    }


def packed_tensors(shape: Shape, tokens: int, device: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """Random queries, keys and values (tokens, heads, dim), views of one tensor as models make them."""
    generator = torch.Generator(device).manual_seed(_SEED)
    heads = shape.query_heads + 2 * shape.key_heads
    fused = torch.randn(tokens, heads, shape.dim, generator=generator, device=device, dtype=dtype)
    return list(fused.split([shape.query_heads, shape.key_heads, shape.key_heads], dim=1))


def _checked(
    case: Case,
    peers: list[str],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    layout: Packing,
    scale: float,
) -> tuple[dict[str, Attention], dict[str, float], dict[str, str]]:
    """The peers that can run, the root mean square error of each, and why the others cannot run.

    Raises:
        AssertionError: if a peer computes something else.
    """
    expected, _ = reference_attention(q.float(), k.float(), v.float(), layout, scale)
    methods, errors, unable = {}, {}, {}
    for name in peers:
        try:
            methods[name] = PEERS[name](q, k, v, layout, scale)
            got = methods[name]()
        except (Unable, RuntimeError) as why:
            methods.pop(name, None)
            unable[name] = str(why).splitlines()[0][:300]
            continue
        if name not in OTHER_MASK:
            errors[name] = float((got.float() - expected).square().mean().sqrt())
            if errors[name] > 20 * torch.finfo(q.dtype).eps * float(expected.square().mean().sqrt()):
                raise AssertionError(f"{name} is wrong on {case}: root mean square error {errors[name]}")
    return methods, errors, unable


def _parts(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Packing, scale: float
) -> dict[str, tuple[Attention, int]]:
    """`block_attention` of the documents alone, and of the query block behind kept documents: a call, and its pairs."""
    (context,) = layout.contexts
    end = layout.tokens - context.queries[0]
    documents = Packing([context._replace(queries=())], causal=layout.causal, device=str(q.device))
    query = layout.behind(end)
    return {
        "documents": (
            lambda: block_attention(q[:end], k[:end], v[:end], documents, scale=scale)[0],
            documents.pairs,
        ),
        "query block": (
            lambda: block_attention(q[end:], k, v, query, scale=scale)[0],
            layout.pairs - documents.pairs,
        ),
    }


def _signal(
    case: Case, q: torch.Tensor, k: torch.Tensor, layout: Packing, scale: float
) -> tuple[Callable[[], torch.Tensor], float]:
    """The last two query tokens' log-sum-exps, as BlockRank reads them, and their largest error."""
    layout = layout.with_signal([layout.tokens - 2, layout.tokens - 1])
    rows = q[layout.signal]
    expected = reference_lse(rows.float(), k.float(), layout, scale, "documents")
    error = float((block_lse(rows, k, layout, scale=scale) - expected).abs().max())
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

    return seconds_in_turns({"": layer}, device)[""]


@functools.cache
def rates(device: str, dtype: torch.dtype) -> tuple[MatmulRate, float]:
    """FLOP/s of a large matrix product, and bytes/s of a large copy, read plus written; both measured here."""
    size, copied = (8192, 2**32) if device == "cuda" else (2048, 2**28)
    product = matmul_rate(size, size, size, device=device, dtype=dtype)
    return product, 2 * copy_rate(copied, device=device)


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
    for name, part in result["parts"].items():
        table.add_row(f"sightline, {name} alone", f"{part['ms']:.3f}", "", f"{part['useful_tflops']:.3g}")
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
    shape: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(SHAPES)}; all by default.")] = None,
    documents: Annotated[list[int] | None, typer.Option(help="Only cases with this many documents.")] = None,
    lengths: Annotated[str | None, typer.Option(help="Only documents that are ragged, or uniform.")] = None,
    peer: Annotated[list[str] | None, typer.Option(help=f"One of {'; '.join(PEERS)}; all by default.")] = None,
) -> None:
    """Check, then time, the kernels and their peers on the same tensors.

    TFLOP/s count only the pairs of tokens that the mask lets through; "of matmul" and "of copy" are shares of the rates
    measured here, the latter as if every tensor were moved once.
    """
    cases = [
        case
        for case in (_GPU_CASES if device == "cuda" else _CPU_CASES)
        if (not shape or case.shape in shape)
        and (not documents or case.documents in documents)
        and case.lengths == (lengths or case.lengths)
    ]
    peers = list(dict.fromkeys(["sightline", *(peer or PEERS)]))
    if unknown := [name for name in peers if name not in PEERS]:
        raise typer.BadParameter(f"there is no peer {unknown[0]!r}; there is {'; '.join(PEERS)}")
    if not cases:
        raise typer.BadParameter("no case is left to run")
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    command, results = command_line(), []
    console.print(command, markup=False, highlight=False)
    for case in cases:
        results.append(run(case, device, dtype, peers))
        _show(results[-1])
    last = results[-1]
    rate, copied = f"{last['matmul_tflops']:.3g} TFLOP/s ({last['matmul_by']})", f"{last['bandwidth_gb_s']:.0f} GB/s"
    console.print(f"measured: {rate} matmul, {copied} copy")
    if out:
        report = {"command": command, "versions": machine(device), "seed": _SEED, "results": results}
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app()
