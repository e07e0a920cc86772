"""Milliseconds to score a list with a decoder, layer by layer of what the engine saves; one run, side by side.

    python -m sightline.benchmarks.decoders [--json FILE]

Weights are random, of real shapes: only speed is measured, no quality. Beside each figure stands what the arithmetic
alone would take at the rate that this machine multiplies matrices at, which is measured in the same run.
"""

from __future__ import annotations

import dataclasses
import gc
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

from ..eval.timing import MatmulRate, matmul_rate, median_seconds
from ..kernels import Context, Packing
from ..models.decoder import Decoder, register_attention
from ..rerank.decoder.forward import (
    Wanted,
    positions_of,
    read,
    read_documents,
)
from ..rerank.decoder.graphs import Graphs
from ..rerank.decoder.prompt import Block, Prompt, QueryBlock
from ..rerank.layout import Layout, load_layout
from .timing import command_line, machine

__all__ = ["bench"]

_INSTRUCTION, _QUERY, _SIGNAL = 128, 64, 2
app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder's shape, and the signal layer that it is read at."""

    name: str
    family: str
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    exit: int

    @property
    def linear(self) -> int:
        """Weights of one layer's projections: a token costs two FLOPs for each."""
        attention = 2 * self.hidden * (self.heads + self.kv_heads) * self.head_dim
        return attention + 3 * self.hidden * self.inner


SHAPES = {
    "qwen3-0.6b": Shape("Qwen3-0.6B", "qwen3", 1024, 3072, 28, 16, 8, 128, 18),
    "mistral-7b": Shape("Mistral-7B", "mistral", 4096, 14336, 32, 32, 8, 128, 20),
    "small": Shape("small, for CPUs", "qwen3", 256, 768, 12, 8, 4, 32, 8),
}


class Float8Linear(nn.Module):
    """A linear layer in float8 (e4m3), with a scale per token and per output, by ``torch._scaled_mm``.

    The private function is the one that torchao calls too; this saves the dependency in a benchmark.
    """

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scale = weight.abs().amax(dim=1, keepdim=True).float().clamp_min(1e-12) / 448
        self.out_features = linear.out_features
        self.register_buffer("weight", (weight.float() / scale).to(torch.float8_e4m3fn))
        self.register_buffer("scale", scale.T.contiguous())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Quantise the tokens, multiply."""
        rows = x.reshape(-1, x.shape[-1])
        scale = rows.abs().amax(dim=1, keepdim=True).float().clamp_min(1e-12) / 448
        small = (rows.float() / scale).to(torch.float8_e4m3fn)
        out = torch._scaled_mm(small, self.weight.T, scale_a=scale, scale_b=self.scale, out_dtype=torch.bfloat16)
        return out.reshape(*x.shape[:-1], -1).to(x.dtype)


def _model(shape: Shape, layers: int, attention: str, device: str, dtype: torch.dtype) -> Any:
    from transformers import AutoModel, MistralConfig, Qwen3Config

    register_attention()
    make = {"qwen3": Qwen3Config, "mistral": MistralConfig}[shape.family]
    config = make(
        vocab_size=1024,  # rows are looked up; how many there are costs nothing
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=1 << 20,
        sliding_window=None,
    )
    with torch.device(device):
        return AutoModel.from_config(config, attn_implementation=attention, dtype=dtype).eval()


class _NoTokenizer:
    """Takes the place of a tokenizer, since the benchmark makes token ids itself."""

    is_fast = True


def _decoder(shape: Shape, signal_layer: int, device: str, dtype: torch.dtype, float8: bool = False) -> Decoder:
    model = _model(shape, signal_layer + 1, "sightline", device, dtype)
    if float8:
        for module in list(model.layers.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(module, name, Float8Linear(child))
    return Decoder(model, _NoTokenizer(), shape.name)


def _lists(counts: list[int]) -> Iterator[tuple[str, list[int]]]:
    for count in counts:
        yield f"{count} x 200", [200] * count
        ragged = np.random.default_rng(0).integers(20, 401, count)
        yield f"{count} x 20-400", ragged.tolist()


def _prompt(lengths: list[int]) -> Prompt:
    draw = np.random.default_rng(1)

    def some(count: int) -> tuple[int, ...]:
        return tuple(draw.integers(0, 1024, count).tolist())

    blocks = tuple(Block(some(n), np.zeros((n, 2), dtype=np.int64), 0, (0, n)) for n in lengths)
    signal = tuple(range(_QUERY - _SIGNAL, _QUERY))
    return Prompt(some(_INSTRUCTION), blocks, (QueryBlock(some(_QUERY), signal),), ())


def _flops(shape: Shape, lengths: list[int], layers: int, dense: bool, only_query: bool = False) -> float:
    """FLOPs of projections and attention in layers 0 to ``layers - 1``, without norms, activations and softmax."""
    context = Context(lengths, [_QUERY], _INSTRUCTION)
    tokens = _INSTRUCTION + sum(lengths) + _QUERY
    if only_query:
        pairs = _QUERY * (_INSTRUCTION + sum(lengths)) + _QUERY * (_QUERY + 1) // 2
        tokens = _QUERY
    else:
        pairs = tokens * (tokens + 1) // 2 if dense else Packing([context]).pairs
    return layers * (2.0 * shape.linear * tokens + 4.0 * shape.heads * shape.head_dim * pairs)


def _float8_rate(repeats: int) -> MatmulRate:
    """The rate of a large product of float8 matrices, as `Float8Linear` multiplies them."""
    n = 8192
    linear = Float8Linear(nn.Linear(n, n, bias=False, device="cuda", dtype=torch.bfloat16))
    x = torch.randn(n, n, device="cuda", dtype=torch.bfloat16).to(torch.float8_e4m3fn)
    unit_scale = torch.ones(n, 1, device="cuda")

    def product() -> torch.Tensor:
        weight, scale = linear.weight.T, linear.scale
        return torch._scaled_mm(x, weight, scale_a=unit_scale, scale_b=scale, out_dtype=torch.bfloat16)

    return MatmulRate(2 * n**3 / median_seconds(product, repeats, device="cuda"), "torch float8_e4m3fn")


def bench(
    shape: Shape, counts: list[int], device: str, dtype: torch.dtype, repeats: int, only: str = ""
) -> list[dict[str, Any]]:
    """Time every variant on every list.

    Args:
        shape: the shape of the decoder.
        counts: documents in a list, once of 200 tokens each and once of 20 to 400.
        device: ``cpu`` or ``cuda``.
        dtype: the number format of the weights.
        repeats: how often each is timed; the median is taken.
        only: what the name of a variant must hold.

    Returns:
        One row per list and variant: milliseconds, the limit in milliseconds, whose product it is the limit of, tokens,
        and the ratio to dense attention, if that was timed.
    """
    layout = load_layout("blockrank-cached", max_block_tokens=512)
    size = 8192 if device == "cuda" else 1024
    rate = matmul_rate(size, size, size, device=device, dtype=dtype, times=repeats)
    float8 = device == "cuda" and torch.cuda.get_device_capability() >= (8, 9)
    rate8 = _float8_rate(repeats) if float8 else None
    timed = []
    if only in _DENSE:
        timed += [(*run, rate) for run in _time_dense(shape, counts, device, dtype, repeats)]
    early = f"exit at {shape.exit}"
    for variant, layers, compiled, small in (
        ("all layers", shape.layers - 1, False, False),
        (early, shape.exit, False, False),
        (f"{early}, compiled", shape.exit, True, False),
        (f"{early}, compiled, FP8", shape.exit, True, True),
    ):
        if only not in variant or (compiled and device == "cpu") or (small and rate8 is None):
            continue
        decoder = _decoder(shape, layers, device, dtype, small)
        if compiled:
            decoder.compile()
        at = rate8 if small and rate8 is not None else rate
        timed += [(*run, at) for run in _time_sparse(shape, decoder, variant, counts, layout, device, repeats)]
        if layers == shape.exit and not small:
            timed += [(*run, rate) for run in _time_kept(shape, decoder, variant, counts, layout, device, repeats)]
        del decoder
        _free(device)
    dense = {name: seconds for variant, name, _, seconds, _, _ in timed if variant == _DENSE}
    return [
        {
            "model": shape.name,
            "list": name,
            "tokens": _INSTRUCTION + sum(lengths) + _QUERY,
            "variant": variant,
            "ms": seconds * 1e3,
            "limit_ms": flops / at.flops * 1e3,
            "matmul_by": at.by,
            "times_dense": None if variant == _DENSE or not dense else dense[name] / seconds,
        }
        for variant, name, lengths, seconds, flops, at in timed
    ]


_DENSE = "dense SDPA, all layers"
_LONG = 50_000  # tokens from which on dense attention takes seconds, and is timed once
_Run = tuple[str, str, list[int], float, float]  # variant, name of the list, its documents' lengths, seconds, FLOPs


def _time_dense(shape: Shape, counts: list[int], device: str, dtype: torch.dtype, repeats: int) -> list[_Run]:
    dense, runs = _model(shape, shape.layers, "sdpa", device, dtype), []
    for name, lengths in _lists(counts):
        ids = torch.randint(0, 1024, (1, _INSTRUCTION + sum(lengths) + _QUERY), device=device)
        times = 1 if ids.shape[1] > _LONG else repeats
        with torch.inference_mode():
            seconds = median_seconds(partial(dense, input_ids=ids, use_cache=False), times, device=device)
        runs.append((_DENSE, name, lengths, seconds, _flops(shape, lengths, shape.layers, dense=True)))
    del dense
    _free(device)
    return runs


def _time_sparse(
    shape: Shape, decoder: Decoder, variant: str, counts: list[int], layout: Layout, device: str, repeats: int
) -> Iterator[_Run]:
    request = Wanted(layout, {decoder.signal_layer: None})
    for name, lengths in _lists(counts):
        seconds = median_seconds(partial(read, decoder, [_prompt(lengths)], request), repeats, device=device)
        yield (
            f"block-sparse, {variant}",
            name,
            lengths,
            seconds,
            _flops(shape, lengths, decoder.signal_layer, dense=False),
        )


def _time_kept(
    shape: Shape, decoder: Decoder, variant: str, counts: list[int], layout: Layout, device: str, repeats: int
) -> Iterator[_Run]:
    """Time reading the query behind documents that were read before."""
    request = Wanted(layout, {decoder.signal_layer: None})
    for name, lengths in _lists(counts):
        prompt = _prompt(lengths)
        kept = read_documents(decoder, prompt.instruction, [block.ids for block in prompt.documents], layout)
        flops = _flops(shape, lengths, decoder.signal_layer, dense=False, only_query=True)
        seconds = median_seconds(partial(read, decoder, [prompt], request, kept), repeats, device=device)
        yield f"documents cached, {variant}", name, lengths, seconds, flops
        if device == "cuda":
            graphs = Graphs(decoder)
            seconds = median_seconds(partial(graphs.read, prompt, request, kept), repeats, device=device)
            yield f"documents cached, {variant}, CUDA graphs", name, lengths, seconds, flops
            del graphs
        del kept
        _free(device)


def _free(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def _check(shape: Shape, device: str, dtype: torch.dtype) -> None:
    """Refuse to time what is wrong: a pass, one behind kept documents, and one that was recorded must agree."""
    layout = load_layout("blockrank-cached")
    small = dataclasses.replace(shape, layers=4, exit=2)
    decoder = _decoder(small, small.exit, device, dtype)
    prompt = _prompt([20, 33, 7])
    request = Wanted(layout, {decoder.signal_layer: None})
    [whole] = read(decoder, [prompt], request)
    kept = read_documents(decoder, prompt.instruction, [block.ids for block in prompt.documents], layout)
    [behind_kept] = read(decoder, [prompt], request, kept)
    atol = 0.1 if dtype is torch.bfloat16 else 1e-3
    torch.testing.assert_close(whole.lse, behind_kept.lse, atol=atol, rtol=0)
    if device == "cuda":
        recorded = Graphs(decoder).read(prompt, request, kept)
        assert recorded is not None
        torch.testing.assert_close(recorded.lse, behind_kept.lse, atol=atol, rtol=0)
    assert max(positions_of(Context([20], [3], 5), layout)) == layout.require_prompt().query_position + 2  # type: ignore[operator]


@app.command()
def main(
    model: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(SHAPES)}; you may give several.")] = None,
    documents: Annotated[
        list[int] | None, typer.Option(help="Documents in a list; you may give several numbers.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="How often each is timed; the median is taken.", min=1)] = 5,
    only: Annotated[str, typer.Option(help="Only variants with this in their names, such as 'compiled'.")] = "",
    out: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Time a decoder's scoring of lists: dense, block-sparse, early exit, compiled, in FP8, behind kept documents."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    names = model or (["small"] if device == "cpu" else ["qwen3-0.6b", "mistral-7b"])
    if unknown := [name for name in names if name not in SHAPES]:
        raise typer.BadParameter(f"there is no shape {unknown[0]!r}; there are {', '.join(SHAPES)}")
    counts = documents or ([10, 40] if device == "cpu" else [100, 500])
    console = Console(soft_wrap=True)
    command, about, rows = command_line(), machine(device), []
    console.print(command, markup=False, highlight=False)
    for name in names:
        _check(SHAPES[name], device, dtype)
        figures = bench(SHAPES[name], counts, device, dtype, repeats, only)
        rows += figures
        table = Table(title=f"{SHAPES[name].name}, random weights, {str(dtype)[6:]}, {about['device']}")
        for column in ("list", "variant", "ms", "limit", "times dense"):
            table.add_column(column, justify="left" if column in ("list", "variant") else "right")
        for row in sorted(figures, key=lambda row: [r["list"] for r in figures].index(row["list"])):
            ratio = "" if row["times_dense"] is None else f"{row['times_dense']:.2f}x"
            table.add_row(row["list"], row["variant"], f"{row['ms']:,.1f}", f"{row['limit_ms']:,.1f}", ratio)
        console.print(table)
    if out is not None:
        out.write_text(json.dumps({"command": command, "versions": about, "rows": rows}, indent=1))


if __name__ == "__main__":
    app()
