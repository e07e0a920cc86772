"""One command for a GPU: tests, tile sizes, kernels and their peers, decoders, precision, server; and which aims hold.

    python -m sightline.recipes.gpu            # all parts, in under ten minutes; or name some of them

Each part is a process of its own with a time limit, so one that fails or hangs takes no other with it. The figures go
into one JSON file, which is written after every part: a run of some parts renews these and keeps the others.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from ..benchmarks.timing import machine
from ..cli.console import console, print_line, print_table
from ..errors import DataError
from ..files import replace_file
from ..parsing import load_json, parse_json
from .pydocs.corpus import write_collection

__all__ = ["AIMS", "PARTS", "Aim", "Part", "judge", "run_parts"]

_ROOT = Path(__file__).parents[1]
_RESULTS = _ROOT / "benchmarks" / "results"
app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the run.

    Args:
        about: what it does, in a few words.
        arguments: arguments of Python; ``{out}`` is the JSON file to write, ``{data}`` a judged collection that is made
            from the documentation of Python, ``{jobs}`` the number of processes to start.
        limit: seconds after which it is stopped.
        printed: whether its figures are what it prints, not a file.
        figures: whether it has figures; without, its exit code is the result.
    """

    about: str
    arguments: tuple[str, ...]
    limit: float
    printed: bool = False
    figures: bool = True


PARTS = {
    "tests": Part(
        # Kernels are compiled for most of the time, so that processes side by side are several times as fast.
        "the tests marked gpu",
        ("-m", "pytest", "-q", "-m", "gpu", "-n", "{jobs}", "{tests}"),
        130,
        figures=False,
    ),
    "tiles": Part("tile sizes of the forward kernel", ("-m", "sightline.benchmarks.tiles", "--out", "{out}"), 60),
    "kernels": Part(
        "the kernels beside their peers",
        (
            "-m",
            "sightline.benchmarks.kernels",
            "--shape",
            "mistral-7b",
            "--documents",
            "500",
            "--lengths",
            "ragged",
            "--out",
            "{out}",
        ),
        70,
    ),
    "qwen3": Part(
        "a decoder of the shape of Qwen3-0.6B",
        ("-m", "sightline.benchmarks.decoders", "--model", "qwen3-0.6b", "--repeats", "3", "--json", "{out}"),
        90,
    ),
    "mistral": Part(
        "a decoder of the shape of Mistral-7B, compiled",
        (
            *("-m", "sightline.benchmarks.decoders", "--model", "mistral-7b", "--only", "compiled"),
            *("--repeats", "3", "--json", "{out}"),
        ),
        70,
    ),
    "precision": Part(
        "bfloat16 beside float32", ("-m", "sightline.recipes.precision", "--lists", "10", "--out", "{out}"), 80
    ),
    "server": Part(
        "the server under eight clients",
        (
            *("-m", "sightline.benchmarks.server", "chunks", "{data}", "--rerank", "smollm2", "--compiled"),
            *("--seconds", "4", "--rounds", "2"),
        ),
        90,
        printed=True,
    ),
}
"""The parts, in the order in which they run."""


@dataclass(frozen=True, slots=True)
class Aim:
    """A figure that the kernels or the decoders should reach.

    Args:
        about: what it is.
        part: the part that measures it.
        find: takes it from that part's figures; raises LookupError if it is not there.
        least: the smallest value that reaches it, or
        most: the largest.
    """

    about: str
    part: str
    find: Callable[[Any], float]
    least: float | None = None
    most: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a value reaches the aim."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


def _long_list(figures: Any) -> Any:
    """The kernels' figures for 500 ragged documents in Mistral-7B's shape."""
    wanted = {"shape": "mistral-7b", "documents": 500, "lengths": "ragged"}
    return _only(row for row in figures["results"] if wanted.items() <= row["case"].items())


def _decoder(documents: int, variant: str, end: str = "compiled") -> Callable[[Any], float]:
    def find(figures: Any) -> float:
        rows = (
            row for row in figures["rows"]
            if row["list"] == f"{documents} x 200" and row["variant"].startswith(variant)
            and row["variant"].endswith(end)
        )  # fmt: skip
        return float(_only(rows)["ms"])

    return find


def _only(rows: Iterable[Any]) -> Any:
    """The only row there is."""
    found = list(rows)
    if len(found) != 1:
        raise LookupError(f"there are {len(found)} such figures")
    return found[0]


AIMS = (
    Aim(
        "documents, useful TFLOP/s",
        "kernels",
        lambda f: _long_list(f)["parts"]["documents"]["useful_tflops"],
        least=300,
    ),
    Aim(
        "query block, useful TFLOP/s",
        "kernels",
        lambda f: _long_list(f)["parts"]["query block"]["useful_tflops"],
        least=450,
    ),
    Aim("times as fast as FlexAttention", "kernels", lambda f: _long_list(f)["ratio"]["FlexAttention"], least=1.5),
    Aim("times as fast as dense attention", "kernels", lambda f: _long_list(f)["ratio"]["SDPA, dense"], least=60),
    Aim("Qwen3-0.6B, 100 documents, ms", "qwen3", _decoder(100, "block-sparse, exit"), most=22),
    Aim("Qwen3-0.6B, 500 documents, ms", "qwen3", _decoder(500, "block-sparse, exit"), most=100),
    Aim("Mistral-7B, 100 documents, ms", "mistral", _decoder(100, "block-sparse, exit"), most=260),
    Aim("Mistral-7B, 500 documents, ms", "mistral", _decoder(500, "block-sparse, exit"), most=1290),
    Aim(
        "Qwen3-0.6B, 500 kept documents, ms",
        "qwen3",
        _decoder(500, "documents cached", "compiled, CUDA graphs"),
        most=15,
    ),
)
"""The aims, for an H100 and bfloat16."""


def run_parts(names: Sequence[str], out: Path, parts: Mapping[str, Part] = PARTS) -> dict[str, Any]:
    """Run parts one after another, and write the report after each.

    Args:
        names: names in ``parts``.
        out: the JSON file. What it holds of other parts is kept.
        parts: what there is to run.

    Returns:
        The report: ``versions``, and by the name of each part ``seconds``, ``command`` and either ``figures`` or
        ``error``.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    before = load_json(out).get("parts", {}) if out.exists() else {}
    report: dict[str, Any] = {"versions": machine(device), "parts": dict(before)}
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            print_line(f"{name}: {parts[name].about}, {parts[name].limit:.0f} s at most")
            report["parts"][name] = _run(parts[name], Path(scratch))
            replace_file(out, (json.dumps(report, indent=1) + "\n").encode())
            done = report["parts"][name]
            print_line(f"    {done['seconds']:.0f} s: {done.get('error', 'done')}", "dim")
    return report


def _run(part: Part, scratch: Path) -> dict[str, Any]:
    """What a part gave: its figures, or why there are none."""
    out, data = scratch / "out.json", scratch / "pydocs"
    out.unlink(missing_ok=True)
    if "{data}" in part.arguments and not data.exists():
        write_collection(data)
    jobs = str(max(1, (os.cpu_count() or 1) - 2))
    places = {"{out}": str(out), "{data}": str(data), "{tests}": str(_ROOT / "tests"), "{jobs}": jobs}
    command = [sys.executable, *(places.get(argument, argument) for argument in part.arguments)]
    started = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=part.limit, cwd=_ROOT)
        failed = f"exit code {done.returncode}: {_last(done.stdout + done.stderr)}" if done.returncode else ""
    except subprocess.TimeoutExpired as late:
        done, failed = None, f"stopped after {part.limit:.0f} s: {_last(late.stdout, late.stderr)}"
    result: dict[str, Any] = {
        "seconds": time.perf_counter() - started,
        "command": " ".join(["python", *part.arguments]),
    }
    if failed or done is None:
        return result | {"error": failed}
    if not part.figures:
        return result | {"figures": _last(done.stdout)}
    try:
        return result | {"figures": parse_json(done.stdout) if part.printed else load_json(out)}
    except DataError as error:
        return result | {"error": f"it wrote no figures: {error.reason}"}


def _last(*outputs: str | bytes | None) -> str:
    """The last words of what a process said."""
    texts = [said.decode(errors="replace") if isinstance(said, bytes) else said or "" for said in outputs]
    return " ".join(" ".join(texts).split()[-40:])


def judge(report: Mapping[str, Any], aims: Sequence[Aim] = AIMS) -> list[tuple[Aim, float | None]]:
    """Each aim with the value that was measured; None where none was."""
    judged: list[tuple[Aim, float | None]] = []
    for aim in aims:
        try:
            judged.append((aim, aim.find(report["parts"][aim.part]["figures"])))
        except (LookupError, TypeError):
            judged.append((aim, None))
    return judged


@app.command()
def main(
    parts: Annotated[list[str] | None, typer.Argument(metavar="[PART...]", help=f"Any of {', '.join(PARTS)}.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file; by default one named after the GPU.")] = None,
) -> None:
    """Run everything that needs a GPU, write the figures to one file, and say which aims hold."""
    names = list(dict.fromkeys(parts or PARTS))
    if unknown := [name for name in names if name not in PARTS]:
        raise typer.BadParameter(f"there is no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    if not torch.cuda.is_available():
        raise typer.BadParameter("torch sees no GPU here; install a CUDA build of torch on a machine that has one")
    device = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
    path = out or _RESULTS / f"gpu-{device}.json"
    report = run_parts(names, path)
    table = Table("aim (H100, bfloat16)", "should be", "measured", "")
    for aim, value in judge(report):
        bound = f"at least {aim.least:g}" if aim.least is not None else f"at most {aim.most:g}"
        found = ("", "not measured") if value is None else (f"{value:.4g}", "holds" if aim.holds(value) else "missed")
        table.add_row(aim.about, bound, *found)
    print_table(table)
    console.print(f"figures: {path}", markup=False, highlight=False)
    if any("error" in report["parts"][name] for name in names):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
