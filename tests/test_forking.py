"""A forked worker answers, whatever its parent computed on how many threads before."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_START = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); import os, sightline\n"
_FORK = """
expected = work()
child = os.fork()
if not child:
    os._exit(0 if work() == expected else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
_WORK = {
    "minilm": """
import torch
torch.set_num_threads(2)
from sightline import load_reranker
reranker, documents = load_reranker("minilm"), ["Cats purr. " * 20] + [f"Dogs bark {i}. " * 20 for i in range(8)]
work = lambda: [hit.document.text for hit in reranker.rank("cats", documents)]
""",
    "torch, in a thread of the child": """
import threading, torch
torch.set_num_threads(2)
numbers = torch.arange(1e6)
def work():
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(torch.softmax(numbers, 0).argmax().item())) for _ in "ab"]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return answers
""",
    "faiss": """
import faiss, numpy
faiss.omp_set_num_threads(2)
vectors = numpy.random.default_rng(0).random((5000, 32), dtype="f")
work = lambda: faiss.knn(vectors[:200], vectors, 3)[1].tolist()
""",
    "a pool": """
import multiprocessing, torch
torch.set_num_threads(2)
numbers = torch.arange(1e6)
def largest(_): return torch.softmax(numbers, 0).argmax().item()
def work():
    largest(0)
    if multiprocessing.current_process().name != "MainProcess": return None
    with multiprocessing.get_context("fork").Pool(2) as pool: return pool.map(largest, range(4))
""",
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("work", _WORK.values(), ids=_WORK)
def test_a_forked_worker_answers_as_its_parent(work):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", _START + work + _FORK], timeout=60, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
