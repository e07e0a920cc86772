"""Times every tile size of the forward attention kernel on this GPU, beside the one that the static table takes.

    python -m sightline.benchmarks.tiles --out tiles.json

Where another tile is faster for the shapes that you use, change the table in ``kernels/attention/triton.py``, or set
``SIGHTLINE_AUTOTUNE=1``, which makes the same choice when a process first meets a shape.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from ..cli.console import console, print_table
from ..kernels import block_attention
from .kernels import Case, Shape, packed_tensors
from .timing import command_line, machine

__all__ = ["sweep"]

_DIMS, _GROUPS = (64, 128), (1, 2, 4)
app = typer.Typer(add_completion=False)


def sweep(case: Case, dims: tuple[int, ...] = _DIMS, groups: tuple[int, ...] = _GROUPS) -> list[dict[str, Any]]:
    """Time the tiles for each head dimension and number of query heads per key head, in bfloat16, causal or not.

    Args:
        case: the list of documents.
        dims: head dimensions.
        groups: query heads per key head; there are 8 key heads.

    Returns:
        One row per kind: what it is, the milliseconds of each tile (None where it does not fit), the first of which is
        the table's, and how many times as fast the fastest is.
    """
    from ..kernels.tuning import TIMED

    TIMED.clear()
    before = os.environ.get("SIGHTLINE_AUTOTUNE")
    os.environ["SIGHTLINE_AUTOTUNE"] = "1"
    try:
        for dim, group, causal in itertools.product(dims, groups, (True, False)):
            layout = case.layout("cuda", causal=causal)
            shape = Shape(8 * group, 8, dim, 0, 0, 0, causal)
            q, k, v = packed_tensors(shape, layout.tokens, "cuda", torch.bfloat16)
            block_attention(q, k, v, layout, scale=dim**-0.5)
    finally:
        if before is None:
            del os.environ["SIGHTLINE_AUTOTUNE"]
        else:
            os.environ["SIGHTLINE_AUTOTUNE"] = before
    return [_row(kind, {str(tuple(tile)): ms for tile, ms in times.items()}) for kind, times in TIMED.items()]


def _row(kind: tuple[object, ...], times: dict[str, float]) -> dict[str, Any]:
    name, arch, dim, group, dtype, causal = kind
    best = min(times, key=times.__getitem__)
    return {
        "kernel": name,
        "arch": arch,
        "dim": dim,
        "group": group,
        "dtype": dtype,
        "causal": causal,
        "ms": {tile: ms if math.isfinite(ms) else None for tile, ms in times.items()},
        "table": next(iter(times)),
        "best": best,
        "times_as_fast": times[next(iter(times))] / times[best],
    }


@app.command()
def main(
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
    documents: Annotated[int, typer.Option(help="Documents in the list, of 20 to 400 tokens.", min=1)] = 500,
) -> None:
    """Time every tile size of the forward attention kernel on this GPU."""
    if not torch.cuda.is_available():
        raise typer.BadParameter("tiles are timed on a GPU, and torch sees none")
    rows = sweep(Case("qwen3-0.6b", documents, "ragged", 200, 128, 64))
    table = Table("head dimension", "group", "causal", "table's tile", "ms", "fastest", "ms", "times as fast")
    for row in rows:
        times = [
            f"{row['ms'][row[which]]:.3f}" if row["ms"][row[which]] else "does not fit" for which in ("table", "best")
        ]
        kind = (str(row["dim"]), str(row["group"]), str(row["causal"]))
        table.add_row(*kind, row["table"], times[0], row["best"], times[1], f"{row['times_as_fast']:.2f}")
    console.print("tiles are (rows, keys, warps, stages, registers)")
    print_table(table)
    if out:
        out.write_text(
            json.dumps({"command": command_line(), "versions": machine("cuda"), "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    app()
