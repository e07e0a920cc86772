"""The MCP server with the official client: in one process, over stdio, and over HTTP."""

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

mcp = pytest.importorskip("mcp", reason="the extra mcp is not installed")

from mcp import Client, StdioServerParameters

from sightline import cli
from sightline.errors import InputError
from sightline.integrations.mcp import mcp_server
from sightline.search import Searcher

COMMAND = [sys.executable, "-c", "from sightline.cli import main; main()", "mcp"]
QUERIES = ["happy cats", "who barks", "grass", "gills", "rust", "hydrogen"]
ANSWERS = ["cat", "dog", "cow", "fish", "iron", "star"]


def talk(server, *calls, **options):
    """Each call's result, from one client: of ("tool", {arguments})."""

    async def scenario():
        async with Client(server, **options) as client:
            return [await client.call_tool(*call) for call in calls]

    return asyncio.run(asyncio.wait_for(scenario(), 60))


@pytest.fixture
def server(searcher):
    return mcp_server(searcher)


def test_tools_say_what_they_take_and_give(server):
    async def scenario():
        async with Client(server) as client:
            return {tool.name: tool for tool in (await client.list_tools()).tools}

    tools = asyncio.run(scenario())
    assert set(tools) == {"search", "get_document"}
    assert tools["search"].input_schema["required"] == ["query"]
    assert set(tools["search"].input_schema["properties"]) == {"query", "k", "where", "min_score"}
    assert tools["get_document"].input_schema["required"] == ["id"]
    for tool in tools.values():
        assert tool.description
        assert tool.annotations.read_only_hint
        assert all("description" in field for field in tool.input_schema["properties"].values())
        assert tool.output_schema["type"] == "object"


def test_search_tells_what_the_searcher_found(server, searcher):
    (answer,) = talk(server, ("search", {"query": "who lights the lamp at dusk", "k": 3}))
    assert not answer.is_error
    hits = searcher.search("who lights the lamp at dusk", 3, evidence="sentence", unit="passage").hits
    results = answer.structured_content["results"]
    assert [(f["id"], f["text"], f["score"], f["relevance"]) for f in results] == [
        (h.id, h.passage.text, h.score, h.relevance) for h in hits
    ]
    assert answer.structured_content["notes"] == []
    best = results[0]
    assert (best["id"], best["title"], best["metadata"]) == ("town", "The town", {"lang": "en"})
    assert "lighthouse keeper" in best["evidence"][0]["text"]
    shares = [span["share"] for span in best["evidence"]]
    assert 0 < sum(shares) <= 1 and shares == sorted(shares, reverse=True)
    assert json.loads(answer.content[0].text) == answer.structured_content  # for clients that read texts only


def test_a_result_leads_to_its_document(server, searcher):
    (answer,) = talk(server, ("search", {"query": "who lights the lamp at dusk", "k": 1}))
    result = answer.structured_content["results"][0]
    part = {"id": result["id"], "start": result["start"], "length": result["end"] - result["start"]}
    whole, part = (a.structured_content for a in talk(server, ("get_document", {"id": "town"}), ("get_document", part)))
    assert part["text"] == result["text"] and (part["start"], part["end"]) == (result["start"], result["end"])
    assert whole["text"] == searcher.index.document("town").text
    assert (whole["length"], whole["start"], whole["end"], whole["title"]) == (
        len(whole["text"]),
        0,
        part["length"],
        "The town",
    )
    # The offsets of evidence count in the document, not in the passage: this one begins behind its first sentences.
    assert result["start"] > 0 and len(result["evidence"]) > 1
    for span in result["evidence"]:
        assert whole["text"][span["start"] : span["end"]] == span["text"]
        assert result["start"] <= span["start"] < span["end"] <= result["end"]


def test_a_long_document_is_read_in_parts(server, searcher):
    text, parts, start = searcher.index.document("town").text, [], 0
    while start < len(text):
        (answer,) = talk(server, ("get_document", {"id": "town", "start": start, "length": 200}))
        part = answer.structured_content
        assert (part["start"], part["length"]) == (start, len(text))
        parts.append(part["text"])
        start = part["end"]
    assert len(parts) > 1 and "".join(parts) == text
    (beyond,) = talk(server, ("get_document", {"id": "town", "start": len(text) + 5}))
    assert (beyond.structured_content["text"], beyond.structured_content["end"]) == ("", len(text) + 5)


def test_filters(server):
    (answer,) = talk(server, ("search", {"query": "cats", "k": 9, "where": {"lang": "de", "year": {">": 2000}}}))
    assert [result["id"] for result in answer.structured_content["results"]] == ["cow"]


def test_without_a_reranker_there_is_no_evidence(searcher):
    unranked = mcp_server(Searcher(searcher.index, None))
    (answer,) = talk(unranked, ("search", {"query": "happy cats", "k": 1}))
    (result,) = answer.structured_content["results"]
    assert (result["id"], result["evidence"], result["relevance"]) == ("cat", [], None)


def test_min_score_of_a_call_and_of_the_server(searcher):
    query = {"query": "what do happy cats do", "k": 3}
    all_, some, none = (
        answer.structured_content
        for answer in talk(
            mcp_server(searcher),
            ("search", {**query, "min_score": 0}),
            ("search", {**query, "min_score": searcher.search(query["query"], 3, unit="passage").hits[1].relevance}),
            ("search", {**query, "min_score": 1}),
        )
    )
    assert len(all_["results"]) == 3 and some["results"] == all_["results"][:2]
    assert none["results"] == [] and none["notes"][0].startswith("nothing scored above min_score 1; the best relevance")
    strict = mcp_server(searcher, min_score=1.0)
    default, own = talk(strict, ("search", query), ("search", {**query, "min_score": 0.0}))
    assert default.structured_content == none and own.structured_content == all_


def test_min_score_is_refused_where_there_is_no_relevance(searcher):
    relative = Searcher(searcher.index, "minilm-mass")
    message = "minilm-mass has none: its scores are relative to their list"
    (refused,) = talk(mcp_server(relative), ("search", {"query": "cats", "min_score": 0.5}))
    assert refused.is_error and message in refused.content[0].text
    with pytest.raises(InputError, match=message):
        mcp_server(relative, min_score=0.5)
    with pytest.raises(InputError, match="min_score needs a reranker"):
        mcp_server(Searcher(searcher.index, None), min_score=0.5)


def test_a_search_that_finds_nothing_says_so(server):
    (answer,) = talk(server, ("search", {"query": "cats", "where": {"lang": "fr"}}))
    assert answer.structured_content == {"results": [], "notes": ["nothing was found"]}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("search", {"query": " "}), "the query is empty"),
        (("search", {"query": "cats", "where": {"year": {"~": 3}}}), "filter on 'year'"),
        (("search", {"query": "cats", "k": 0}), "greater than or equal to 1"),
        (("search", {"query": "cats", "k": "many"}), "valid integer"),
        (("search", {}), "query"),
        (("get_document", {"id": "no such"}), "there is no document 'no such'; take an id from the results of search"),
        (("get_document", {"id": "half \ud800"}), "there is no document"),
        (("search", {"query": "half \ud800"}), "half a surrogate pair"),
        (("get_document", {"id": "town", "length": 0}), "greater than or equal to 1"),
    ],
    ids=str,
)
def test_errors_tell_the_assistant_what_to_do(server, call, message):
    bad, good = talk(server, call, ("search", {"query": "happy cats", "k": 1}))
    assert bad.is_error
    assert message in bad.content[0].text
    assert "Traceback" not in bad.content[0].text
    assert good.structured_content["results"][0]["id"] == "cat"


def test_a_search_leaves_the_loop_free(server, leaves_loop_free):
    async def ask():
        async with Client(server) as client:
            return await client.call_tool("search", {"query": "happy cats"})

    assert leaves_loop_free(ask).structured_content["results"][0]["id"] == "cat"


async def ask_many_at_once(client):
    answers = await asyncio.gather(*(client.call_tool("search", {"query": q, "k": 1}) for q in QUERIES * 4))
    return [answer.structured_content["results"][0]["id"] for answer in answers]


def test_over_stdio(index_path):
    async def scenario(mode):
        parameters = StdioServerParameters(command=COMMAND[0], args=[*COMMAND[1:], str(index_path)])
        async with Client(parameters, mode=mode) as client:
            assert {tool.name for tool in (await client.list_tools()).tools} == {"search", "get_document"}
            document = await client.call_tool("get_document", {"id": "iron"})
            assert document.structured_content["text"] == "Iron rusts in wet air."
            assert (await client.call_tool("search", {"query": ""})).is_error
            assert await ask_many_at_once(client) == ANSWERS * 4

    async def scenarios():
        await asyncio.gather(scenario("auto"), scenario("legacy"))

    asyncio.run(asyncio.wait_for(scenarios(), 90))


@contextlib.contextmanager
def http_server(index_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [str(index_path), "--transport", "http", "--port", str(port)]
    with subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stderr.readline()
            assert line.strip() == f"{index_path}: MCP at http://127.0.0.1:{port}/mcp"
            yield process, f"http://127.0.0.1:{port}/mcp"
        finally:
            process.kill()


async def connected(url):
    for _ in range(200):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", int(url.split(":")[2].split("/")[0]))
            writer.close()
            return
        await asyncio.sleep(0.05)
    raise AssertionError("nobody listens")


def test_over_http(index_path):
    async def scenario(url):
        await connected(url)
        for mode in ("auto", "legacy"):
            async with Client(url, mode=mode) as client:
                assert {tool.name for tool in (await client.list_tools()).tools} == {"search", "get_document"}
                document = await client.call_tool("get_document", {"id": "iron"})
                assert document.structured_content["text"] == "Iron rusts in wet air."
                assert (await client.call_tool("search", {"query": ""})).is_error
                assert await ask_many_at_once(client) == ANSWERS * 4

    with http_server(index_path) as (process, url):
        asyncio.run(asyncio.wait_for(scenario(url), 90))
        # A page in a browser that has its own name point here gets nothing.
        request = urllib.request.Request(
            url, data=b"{}", headers={"Host": "evil.example", "Content-Type": "application/json"}
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        assert 400 <= refused.value.code < 500
        process.send_signal(signal.SIGINT)
        assert process.wait(20) in (0, 130)
        assert "Traceback" not in process.stderr.read()


def test_a_port_that_is_taken_ends_the_command(index_path, monkeypatch, capfd):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        arguments = ["sightline", "mcp", str(index_path), "--transport", "http", "--port", port]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as end:
            cli.main()
    said = capfd.readouterr()
    assert (end.value.code, said.out) == (1, "")
    assert "address already in use" in said.err
    assert said.err.splitlines()[-1].startswith(f"error: cannot serve at 127.0.0.1:{port}")


def test_a_min_score_without_relevance_ends_the_command(index_path, monkeypatch, capfd):
    arguments = ["sightline", "mcp", str(index_path), "--rerank", "minilm-mass", "--min-score", "0.5"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capfd.readouterr()
    assert (end.value.code, said.out) == (2, "")
    assert "minilm-mass has none: its scores are relative to their list" in " ".join(said.err.split())


def test_an_index_that_is_not_there_ends_the_command(tmp_path):
    ended = subprocess.run([*COMMAND, str(tmp_path / "none")], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (4, "")
    assert ended.stderr.startswith("error: ")
