"""A build by Ray's workers that is killed again and again, and whether nothing of it is lost or there twice.

    python -m sightline.benchmarks.interruptions interruptions --passages 100000 --kills 20

A process builds an index with two workers. At random moments it or one of its workers is killed (``SIGKILL``); where it
was the builder, another takes the build up. At the end every document must be there once: in the database, by a word
that it alone has, by its embedding, and by its token states, which are those that a plain build gives, to the byte.
Texts and token states are made up, see `scale`. Where ``RAY_ADDRESS`` is set, all builders use that cluster.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from ..documents import Document
from ..models.reader import TokenStates
from ..retrieval.index import Index
from ..retrieval.stores import Store, build_store
from ..retrieval.token_states import states_form
from ..scale import RayReading
from .scale import TableReader
from .timing import print_report

__all__ = ["documents", "interruptions"]

_WORDS = [f"word{number}" for number in range(2000)]
_DIM = 64
_LONGEST = 40
_CHECKED = 2000
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class _Known(TableReader):
    """Leaves the number of each process that reads in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(_WORDS, _DIM)
        self.folder = folder

    def read(
        self,
        texts: Sequence[str],
        *,
        kind: Literal["query", "document"] = "document",
        states: bool = True,
        behind: str = "",
    ) -> TokenStates:
        """See `BlockReader.read`."""
        (self.folder / str(os.getpid())).touch()
        return super().read(texts, kind=kind, states=states, behind=behind)


def documents(count: int) -> Iterator[Document]:
    """So many documents, each with a word of its own."""
    for number in range(count):
        draw = random.Random(number)
        text = " ".join(draw.choices(_WORDS, k=draw.randint(5, _LONGEST)))
        yield Document(f"d{number}", f"only{number} {text}", metadata={"number": number})


@app.command()
def build(store: str, passages: int, folder: Path, workers: int = 2) -> None:
    """Build with workers, and print how far it has come; this is the process that is killed."""
    with (
        RayReading(workers=workers) as reading,
        build_store(
            store,
            documents(passages),
            encoder=_Known(folder),
            max_tokens=0,
            reading=reading,
            progress=lambda done: print(done, flush=True),  # noqa: T201
        ),
    ):
        pass


@app.command()
def interruptions(
    passages: Annotated[int, typer.Option(help="Documents, of one passage each.")] = 100_000,
    kills: Annotated[int, typer.Option(help="How often a process is killed.")] = 20,
    builders: Annotated[float, typer.Option(help="Share of the kills that hit the process that builds.")] = 0.5,
    workers: Annotated[int, typer.Option(help="Workers that read.")] = 2,
    store: Annotated[
        str, typer.Option(help="Where the index is built: {folder} becomes a temporary folder.")
    ] = "{folder}/index",
    seed: Annotated[int, typer.Option(help="Decides the moments.")] = 0,
) -> None:
    """Build, kill, go on, and count what is there at the end."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        where = Path(temporary)
        name, marks = store.format(folder=where), where / "workers"
        marks.mkdir()
        started = time.perf_counter()
        Index.build(where / "plain", documents(passages), encoder=TableReader(_WORDS, _DIM), max_tokens=0).close()
        plain = time.perf_counter() - started
        moments = _spread(draw, passages, kills)
        killed = {"builders": 0, "workers": 0}
        started = time.perf_counter()
        runs = 0
        while True:
            runs += 1
            arguments = ["build", name, str(passages), str(marks), "--workers", str(workers)]
            command = [sys.executable, "-m", "sightline.benchmarks.interruptions", *arguments]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    if not line.strip().isdigit() or not moments or int(line) < moments[0]:  # Ray prints too
                        continue
                    moments.pop(0)
                    time.sleep(draw.uniform(0, 0.2))
                    alive = [mark for mark in marks.iterdir() if _reads(int(mark.name), process.pid)]
                    if draw.random() < builders or not alive:
                        killed["builders"] += 1
                        process.kill()
                    else:
                        killed["workers"] += 1
                        os.kill(int(draw.choice(alive).name), signal.SIGKILL)
                    typer.echo(f"{time.perf_counter() - started:.0f} s: {line.strip()} {killed}", err=True)
                code = process.wait()
            if code == 0:
                break
            if code != -signal.SIGKILL:
                raise typer.Exit(code)
        spent = time.perf_counter() - started
        with build_store(name, documents(passages), encoder=TableReader(_WORDS, _DIM), max_tokens=0) as index:
            found = _check(index, where / "plain", passages, draw)
        print_report(
            {
                "passages": passages,
                "killed": killed,
                "builders started": runs,
                "plain build, s": plain,
                "build with kills, s": spent,
                **found,
            }
        )


def _numbers(keys: Any) -> np.ndarray:
    """The numbers of quantised states."""
    return np.asarray(keys.values)


def _spread(draw: random.Random, passages: int, kills: int) -> list[int]:
    """After how many documents a process is killed."""
    return sorted(draw.randrange(passages) for _ in range(kills))


def _reads(process: int, builder: int) -> bool:
    """Whether a process is a worker of Ray that is alive."""
    if process == builder:
        return False
    with contextlib.suppress(OSError):
        return b"ray::" in Path(f"/proc/{process}/cmdline").read_bytes()
    return False


def _check(index: Store, plain: Path, passages: int, draw: random.Random) -> dict[str, Any]:
    """Count what is missing, twice there, or other than in a plain build."""
    reader = TableReader(_WORDS, _DIM)
    ids = sorted(document.id for document in index.documents())
    expected = sorted(f"d{number}" for number in range(passages))
    wrong_words = wrong_vectors = wrong_states = 0
    for number in draw.sample(range(passages), min(_CHECKED, passages)):
        rows, _ = index.search_lexical(f"only{number}", 10)
        found = [one.passage.document.id for one in index.passages(rows.tolist())]
        wrong_words += found != [f"d{number}"]
    form = states_form("int8", _DIM)
    if isinstance(index, Index):
        with Index.open(plain, encoder=reader) as other:
            wrong_vectors = (
                int((index.vectors() != other.vectors()).any())
                if index.vectors().shape == other.vectors().shape
                else -1
            )
            for file in ("vectors.f32", "states.int8", "states.spans"):
                wrong_states += (index.path / file).read_bytes() != (plain / file).read_bytes()
    else:
        for number in draw.sample(range(passages), min(_CHECKED // 10, passages)):
            [stored] = index.passages_of([f"d{number}"])
            text = stored.passage.contents
            rows, _ = index.search_dense([text], 1)
            wrong_vectors += [one.passage.document.id for one in index.passages(rows[0].tolist())] != [f"d{number}"]
            read = reader.read([text])
            assert read.states is not None
            [kept] = index.token_states([stored]) or [None]
            expected_states = form.decode(form.encode(read.states), [(0, len(read.states))])[0]
            wrong_states += kept is None or not np.array_equal(_numbers(kept.keys), _numbers(expected_states))
    return {
        "documents": len(ids),
        "documents missing": len(set(expected) - set(ids)),
        "documents there twice": len(ids) - len(set(ids)),
        "words looked for that do not find their one document": wrong_words,
        "embeddings that differ from those of a plain build": wrong_vectors,
        "token states, or files of them, that differ": wrong_states,
        "complete": index.manifest.complete,
    }


if __name__ == "__main__":
    app()
