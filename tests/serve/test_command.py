"""``sightline serve`` as a process, and the examples that talk to it."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

import sightline
from sightline import load_reranker

from .conftest import KEY

SIGHTLINE = Path(sys.executable).with_name("sightline")
EXAMPLES = Path(sightline.__file__).parent / "examples"


@contextlib.contextmanager
def served(*arguments, **environment):
    """A running command and its address."""
    process = subprocess.Popen(
        [SIGHTLINE, "serve", *map(str, arguments), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
    )
    try:
        line = process.stdout.readline()
        match = re.match(r"(http://127\.0\.0\.1:\d+)  (.*); Ctrl-C stops it", line)
        assert match, line + process.stderr.read()
        yield process, match[1], match[2]
    finally:
        process.kill()
        process.communicate()


def test_it_serves_and_stops_when_all_is_answered(small_index):
    with served(small_index) as (process, address, what):
        assert what == f"{small_index}, 4 documents"
        assert httpx.get(f"{address}/health", timeout=30).json()["status"] == "ok"
        assert process.poll() is None
        # A long list is being read when the signal comes.
        body = {"query": "cats", "documents": [f"{i} " + "the cat sat on the mat " * 40 for i in range(25)]}
        answers = []
        asking = threading.Thread(target=lambda: answers.append(httpx.post(f"{address}/rerank", json=body, timeout=60)))
        asking.start()
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        asking.join()
        assert answers[0].status_code == 200 and len(answers[0].json()["results"]) == 25
        process.wait(20)
        assert process.stderr.read() == f"loading {small_index} and minilm, to be served at {address}\n"
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/health")


def test_it_follows_what_another_process_writes(small_index, tmp_path):
    index = shutil.copytree(small_index, tmp_path / "index")
    corpus = tmp_path / "new.jsonl"

    def write(*command):
        done = subprocess.run([SIGHTLINE, *map(str, command)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    with served(index) as (_, address, _):

        def best(query):
            answer = httpx.post(f"{address}/search", json={"query": query, "k": 1}, timeout=30).json()
            return answer["hits"][0]["id"], answer["hits"][0]["text"]

        def documents():
            return httpx.get(f"{address}/health", timeout=30).json()["index"]["documents"]

        assert best("who barks at strangers")[0] == "dog"
        corpus.write_text(json.dumps({"id": "dog", "text": "Dogs howl at the moon.", "title": "Dogs"}) + "\n")
        write("add", index, corpus, "--update")
        assert best("who howls at the moon") == ("dog", "Dogs howl at the moon.") and documents() == 4
        corpus.write_text(json.dumps({"id": "bee", "text": "Bees make honey."}) + "\n")
        write("add", index, corpus)
        assert best("who makes honey") == ("bee", "Bees make honey.")
        until = time.monotonic() + 10
        while documents() != 5:  # counting may lag behind by a moment
            assert time.monotonic() < until
        write("delete", index, "bee")
        assert best("who makes honey")[0] != "bee"


def test_limits_are_options(small_index):
    with served("--max-connections-per-client", "2", "--max-header-seconds", "1", "--any-model") as (_, address, _):
        port = int(address.rpartition(":")[2])
        idle = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(6)]
        body = {"query": "cats", "documents": ["dogs", "cats"], "model": "rerank-v3.5", "top_n": 0}
        answer = httpx.post(f"{address}/v2/rerank", json=body, timeout=30).json()
        assert answer["model"] == "rerank-v3.5" and len(answer["results"]) == 2
        assert all(connection.recv(1) == b"" for connection in idle)  # by the limit, or by the time
        for connection in idle:
            connection.close()


def test_curl(small_index):
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    with served(small_index, SIGHTLINE_API_KEY=KEY) as (_, address, _):
        environment = {**os.environ, "SIGHTLINE_API_KEY": KEY}
        done = subprocess.run(
            ["sh", EXAMPLES / "curl.sh", address], capture_output=True, text=True, env=environment, timeout=60
        )
    assert done.returncode == 0, done.stdout + done.stderr
    search, rerank, cut, tei, written, deleted = map(json.loads, done.stdout.splitlines())
    assert len(search["hits"]) == 3 and search["hits"][0]["evidence"]
    assert [result["index"] for result in rerank["results"]] == [1]
    assert all(result["relevance_score"] >= 0.5 for result in cut["results"]) and len(cut["results"]) < 2
    assert [item["index"] for item in tei] == [1, 0]
    assert (written["written"], deleted["deleted"], deleted["documents"]) == (1, 1, 4)
    script = (EXAMPLES / "curl.sh").read_text()
    assert len(script.splitlines()) < 40


def test_min_score_holds_for_requests_that_give_none(small_index):
    with served(small_index, "--min-score", "1") as (_, address, _):
        answer = httpx.post(f"{address}/search", json={"query": "cats"}, timeout=30).json()
        assert answer["hits"] == [] and answer["warnings"][0].startswith("nothing scored above min_score 1")
        assert httpx.post(f"{address}/search", json={"query": "cats", "min_score": 0}, timeout=30).json()["hits"]


def test_a_min_score_without_relevance_ends_the_command():
    command = [SIGHTLINE, "serve", "--rerank", "minilm-mass", "--min-score", "0.5", "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "minilm-mass has none: its scores are relative to their list" in " ".join(ended.stderr.split())


def test_it_says_what_it_loads_before_it_loads_it(small_index, tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('loads a model')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    command = [SIGHTLINE, "serve", small_index, "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    said = rf"loading {small_index} and minilm, to be served at http://127\.0\.0\.1:\d+\nloads a model\n"
    assert done.stdout == "" and re.fullmatch(said, done.stderr)


def test_without_an_index_it_reranks():
    with served("--rerank", "minilm-mass") as (process, address, what):
        assert what == "reranking by minilm-mass"
        answer = httpx.post(f"{address}/v1/rerank", json={"query": "cats", "documents": ["dogs", "cats"]}, timeout=30)
        assert answer.json()["model"] == "minilm-mass" and answer.json()["results"][0]["index"] == 1
        assert httpx.get(address).status_code == 404
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_the_reranker_computes_in_the_number_format_that_is_asked_for():
    body = {"query": "cats", "documents": ["dogs bark", "cats purr"]}
    with served("--rerank", "minilm", "--dtype", "bfloat16") as (_, address, _):
        answer = httpx.post(f"{address}/v1/rerank", json=body, timeout=30).json()
    given = {result["index"]: result["relevance_score"] for result in answer["results"]}
    usual = {item.index: item.relevance for item in load_reranker("minilm").rank(*body.values())}
    assert given == pytest.approx(usual, abs=0.02) and given != pytest.approx(usual, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere.index"], 4, "nowhere.index"),
        (["--rerank", "none"], 2, "nothing to serve"),
        (["--rerank", "gpt"], 2, "no reranker 'gpt'"),
        (["--host", "256.0.0.1"], 2, "cannot listen"),
    ],
)
def test_what_cannot_be_served_is_said_at_once(arguments, code, said):
    done = subprocess.run([SIGHTLINE, "serve", "--port", "0", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert said in " ".join(done.stderr.split()) and "Traceback" not in done.stderr


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run([SIGHTLINE, "serve", "--port", port], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "choose another --port" in " ".join(done.stderr.split())


def test_the_extra_is_named_where_it_is_missing(tmp_path):
    for module in ("fastapi", "prometheus_client"):
        (tmp_path / f"{module}.py").write_text(f"raise ModuleNotFoundError('no {module}', name='{module}')")
        done = subprocess.run(
            [SIGHTLINE, "serve"],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )
        (tmp_path / f"{module}.py").unlink()
        assert done.returncode == 5 and "pip install 'sightline-search[serve]'" in " ".join(done.stderr.split())
