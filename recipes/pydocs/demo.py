"""The demo: index the documentation of the installed Python, measure how good the answers are, and show some.

At the end a small language model, ``smollm2``, ranks candidates of a few questions by what it pays attention to.

Run as ``python -m sightline.recipes.pydocs.demo FOLDER``, or by ``make demo``. Every step prints the command that
does the same by hand. An index that an earlier run left in ``FOLDER`` is used again.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ...cli import main as sightline
from ...cli.console import console
from ...errors import SightlineError
from ...eval.loading import load_dataset
from ...eval.results import Results, load_results
from ...models.gguf import find_gguf
from .corpus import write_collection

__all__ = ["comment", "decoder_comment", "examples", "main"]

_DEFAULT = "hybrid+minilm"
_PARTS = {
    "bm25": "finds documents by the question's words",
    "dense": "finds documents by the question's meaning",
    "hybrid": "merges what these two find",
    "dense+minilm-log-mass": "takes what dense finds, and orders it by attention alone",
}
_FIRST_IS_RIGHT = "Success(rel=2)@1"
_MEASURES = f"nDCG@10,{_FIRST_IS_RIGHT}"
_LEVEL = 0.05
_DECODER, _QUESTIONS, _CANDIDATES = "smollm2", 8, 10  # about 20 seconds of two cores


def _say(text: str) -> None:
    console.print(text, highlight=False)


def _run(*arguments: str) -> None:
    console.print(f"\n[bold green]$ sightline {' '.join(a if ' ' not in a else repr(a) for a in arguments)}")
    sys.argv = ["sightline", *arguments]
    try:
        sightline()
    except SystemExit as end:
        if end.code:
            raise


def comment(results: Results) -> str:
    """Explain the table of an evaluation to somebody who has never seen one, and say what it shows.

    Args:
        results: the results of the demo's systems.

    Returns:
        Text, some lines of it.
    """
    summary, mean = results.summary, {name: values[results.measure] for name, values in results.systems.items()}
    first_is_right = {name: values[_FIRST_IS_RIGHT] for name, values in results.systems.items()}
    most = max(first_is_right.values())
    best = ", ".join(name for name, share in first_is_right.items() if share == most)
    lines = [
        "How to read the first table: each row is a way to search, and all answered the same "
        f"{summary.queries} questions.",
        *(f"  {part} {what}." for part, what in _PARTS.items()),
        f"  {_DEFAULT}, the default, takes what hybrid finds, and orders it by attention, meaning and words together.",
        "nDCG@10 says how high the right answers stand among the first ten, from 0 (none is there) to 1 (all on top). "
        "95 % is the range in which it would probably be with other questions of this kind.",
        f"{_FIRST_IS_RIGHT} is the share of questions whose very first answer is a right one: "
        f"{first_is_right[_DEFAULT]:.1%} with the default, and at most {most:.1%} ({best}).",
        f"The default's nDCG@10 is {mean[_DEFAULT]:.3f}. Compared with its parts (p is the probability of so large a "
        "difference if both were equally good):",
    ]
    for part in _PARTS:
        difference = mean[_DEFAULT] - mean[part]
        p = next(pair.p_holm for pair in summary.comparisons if {pair.a, pair.b} == {_DEFAULT, part})
        verdict = "beyond chance" if p < _LEVEL else "this may be chance"
        word = "above" if difference > 0 else "below"
        lines.append(f"  {abs(difference):.3f} {word} {part}: {verdict} (p = {p:.3f})")
    lines.append(
        "The collection is small, and one judge decided which answers are right. Measure on your own documents before "
        "you choose: sightline eval does the same with them."
    )
    return "\n".join(lines)


def examples(results: Results) -> list[str]:
    """The questions to show: of those whose first answer by the default is right, the first, the middle and the last.

    Args:
        results: the results of the demo's systems.

    Returns:
        Ids of questions, in the order of the collection; fewer than three if there are not so many.
    """
    values = results.per_query[_DEFAULT]
    right = [id for id in sorted(values) if values[id][_FIRST_IS_RIGHT]]
    return list(dict.fromkeys([right[0], right[len(right) // 2], right[-1]])) if right else []


def decoder_comment(results: Results) -> str:
    """Say what a table of the decoder, beside the first stage and the default reranker, shows, and what it took.

    Args:
        results: results of ``bm25``, ``bm25+minilm`` and ``bm25+smollm2``.

    Returns:
        Text, some lines of it.
    """
    summary, mean = results.summary, {name: values[results.measure] for name, values in results.systems.items()}
    decoder = f"bm25+{_DECODER}"
    seconds = {name: summary.milliseconds_per_query[name] / 1000 for name in mean}
    lines = [
        f"All three order the same {_CANDIDATES} candidates. {_DECODER} is a language model of 135 million parameters "
        f"that never learnt to search; here it took {seconds[decoder]:.1f} s for a list, minilm "
        f"{seconds['bm25+minilm']:.2f} s.",
        f"nDCG@10 on these {summary.queries} questions:",
    ]
    for other in ("bm25", "bm25+minilm"):
        difference = mean[decoder] - mean[other]
        word = "as good as" if not difference else "better than" if difference > 0 else "worse than"
        lines.append(f"  {decoder} ({mean[decoder]:.3f}) is {word} {other} ({mean[other]:.3f})")
    lines.append(
        "So few questions prove little. On 100 questions each, it ranked the best 20 of hybrid search worse than that "
        "search did on NQ (by .19) and SciFact (.04), and better on SQuAD (.07): see docs/results/decoders.md."
    )
    return "\n".join(lines)


def _read_by_a_decoder(collection: Path, index: Path, folder: Path, question: str) -> None:
    """The second half: a language model reads candidates of a few questions."""
    console.print(f"\n[bold]5. A language model reads: {_DECODER} ranks the candidates of {_QUESTIONS} questions")
    try:
        find_gguf(_DECODER)
        importlib.import_module("gguf")
    except (SightlineError, ImportError) as missing:
        _say(f"left out: {missing}")
        _say("It also needs the extra gguf: pip install 'sightline-search[gguf]'")
        return
    started = time.perf_counter()
    systems, out = f"bm25,bm25+minilm,bm25+{_DECODER}", folder / "decoder"
    few = ("--candidates", str(_CANDIDATES), "--max-queries", str(_QUESTIONS), "--index", str(index))
    _run("eval", str(collection), "--systems", systems, "--measures", _MEASURES, *few, "--out", str(out))
    _say(f"\n{decoder_comment(load_results(out, runs=False))}")
    console.print("\n[bold]What its attention marks as evidence")
    few = ("--first-stage", "bm25", "--candidates", str(_CANDIDATES), "-k", "2")
    _run("search", str(index), question, "--rerank", _DECODER, *few, "--evidence")
    console.print(f"[dim]this part took {time.perf_counter() - started:.0f} s, loading the model twice included")


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
    console.print("\n[bold]3. Evaluate: the default, and each of its parts")
    systems, out = ",".join([*_PARTS, _DEFAULT]), folder / "results"
    evaluate = ("eval", str(collection), "--systems", systems, "--measures", _MEASURES, "--index", str(index))
    _run(*evaluate, "--out", str(out))
    results = load_results(out, runs=False)
    _say(f"\n{comment(results)}")
    console.print("\n[bold]4. Ask: what got the most attention is marked")
    _say(
        f"Three questions of the {results.summary.queries}: of those whose first answer by the default is right, the "
        "first, the middle and the last."
    )
    questions = load_dataset(collection).queries
    shown = examples(results)
    for id in shown:
        _run("search", str(index), questions[id], "-k", "3", "--evidence")
    _read_by_a_decoder(collection, index, folder, questions[shown[0] if shown else min(questions)])
    console.print(f"\n[bold]done in {time.perf_counter() - started:.0f} s[/]; ask more with: sightline search", end=" ")
    _say(f"{index} QUESTION --evidence")


if __name__ == "__main__":
    main()
