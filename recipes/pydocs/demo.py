"""The demo: index the documentation of the installed Python, ask it questions, and measure how good the answers are.

Run as ``python -m sightline.recipes.pydocs.demo FOLDER``, or by ``make demo``. Every step prints the command that
does the same by hand. An index that an earlier run left in ``FOLDER`` is used again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ...cli import main as sightline
from ...cli.console import console
from .corpus import write_collection

__all__ = ["main"]

_QUESTIONS = (
    "split a url into host, path and query",
    "cache results of an expensive function",
    "remove the common indentation from a triple-quoted string",
)


def _run(*arguments: str) -> None:
    console.print(f"\n[bold green]$ sightline {' '.join(a if ' ' not in a else repr(a) for a in arguments)}")
    sys.argv = ["sightline", *arguments]
    try:
        sightline()
    except SystemExit as end:
        if end.code:
            raise


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo in the folder named by the only argument."""
    folder = Path((arguments or sys.argv[1:] or ["demo-out"])[0])
    started = time.perf_counter()
    collection, index = folder / "pydocs", folder / "index"
    console.print("[bold]1. The collection: documentation of the installed Python standard library, judged questions")
    write_collection(collection)
    console.print(f"written to {collection}")
    console.print("\n[bold]2. Index it: embeddings, words, and what the reranker reads")
    try:
        _run("index", str(collection), "--out", str(index))
    except SystemExit as end:
        if end.code != 4:
            raise
        _run("index", str(collection), "--out", str(index), "--overwrite")  # of another version or another Python
    console.print("\n[bold]3. Ask: what got the most attention is marked")
    for question in _QUESTIONS:
        _run("search", str(index), question, "-k", "3", "--evidence")
    console.print("\n[bold]4. Evaluate: by words, by meaning, by meaning and then attention")
    systems = "bm25,dense,dense+minilm"
    _run("eval", str(collection), "--systems", systems, "--index", str(index), "--out", str(folder / "results"))
    console.print(
        "\nnDCG@10 says how high the right answers stand, from 0 to 1. On this small collection, search by meaning "
        "(dense) is far better than search by words (bm25). Reranking adds a little on average, which may be chance: "
        "the texts are short, and it helps on some questions, such as the first one above, and hurts on others. It "
        "helps most on longer passages with a short answer in them, such as SQuAD's: sightline eval runs the same "
        "comparison on your own documents.",
        highlight=False,
    )
    console.print(f"\n[bold]done in {time.perf_counter() - started:.0f} s[/]; ask more with: sightline search", end=" ")
    console.print(f"{index} QUESTION --evidence", highlight=False)


if __name__ == "__main__":
    main()
