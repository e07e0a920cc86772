"""An MCP server over an index: assistants get the tools ``search`` and ``get_document``.

Needs ``pip install 'sightline-search[mcp]'``. The command is ``sightline mcp INDEX``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any

from ..extras import importing

with importing("mcp", "mcp_types", extra="mcp"):
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp_types import ToolAnnotations

from pydantic import Field
from typing_extensions import TypedDict  # before Python 3.12 pydantic reads no other

from .. import __version__
from ..documents import Grain
from ..errors import InputError, SightlineError
from ..search import Hit, Searcher
from ..serve.lane import Lane

__all__ = ["mcp_server"]

_CHARACTERS = 100_000  # the longest query
_WAITING, _SECONDS = 64, 60.0  # calls in the queue; seconds for a call, waiting included
_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)

Query = Annotated[str, Field(description="What to look for: a question or some words, in plain language.")]
K = Annotated[int, Field(description="How many results at most.", ge=1, le=100)]
Where = Annotated[
    dict[str, Any] | None,
    Field(
        description='Metadata filter; all conditions must hold: {"lang": "en", "year": {">=": 2000, "<": 2010}}.',
        max_length=100,
    ),
]
MinScore = Annotated[
    float | None,
    Field(
        description="Leave out results whose relevance is below this, from 0 to 1. The list may be empty: then nothing "
        "in the collection is that relevant.",
        ge=0,
        le=1,
    ),
]
Id = Annotated[str, Field(description="The id of a document, as search gives it.")]
Start = Annotated[int, Field(description="Where to begin, in characters.", ge=0)]
Length = Annotated[int, Field(description="How many characters at most.", ge=1, le=1_000_000)]


class Evidence(TypedDict):
    """A sentence: characters ``[start, end)`` of the document's text, and its share of the passage's attention."""

    text: str
    start: int
    end: int
    share: float


class Found(TypedDict):
    """One result: a passage, which is characters ``[start, end)`` of the document's text."""

    id: str
    title: str
    text: str
    start: int
    end: int
    score: float
    relevance: float | None
    evidence: list[Evidence]
    metadata: dict[str, Any]


class Results(TypedDict):
    """Results, best first, and notes on them: such as that there is none above ``min_score``."""

    results: list[Found]
    notes: list[str]


class Text(TypedDict):
    """A document, or characters ``[start, end)`` of its text; the whole text has ``length`` characters."""

    id: str
    title: str
    text: str
    start: int
    end: int
    length: int
    metadata: dict[str, Any]


def mcp_server(searcher: Searcher, *, min_score: float | None = None) -> MCPServer[Any]:
    """Make a server with the two tools. Its method ``run()`` serves it over stdio or HTTP.

    Args:
        searcher: the searcher that answers calls, one after the other in a thread of its own. At most 64 calls wait,
            and each has 60 seconds.
        min_score: the lowest relevance, from 0 to 1, of the results of calls that give no ``min_score``. If None,
            nothing is left out.

    Raises:
        InputError: if you give ``min_score``, and the searcher has no reranker with a relevance.

    Example:
        >>> mcp_server(Searcher("manuals.index")).run("stdio")  # doctest: +SKIP
    """
    least = min_score
    if least is not None:
        if searcher.reranker is None:
            raise InputError("min_score needs a reranker: it is compared with the reranker's relevance")
        searcher.reranker.check_min_score(least)
    lane: Lane[Callable[[], Any], Any] = Lane("mcp", lambda calls: [call() for call in calls], capacity=_WAITING)

    async def in_lane(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """The call's result. Our errors become errors of the tool, since clients are not shown any others."""
        try:
            return await lane.do(functools.partial(call, *arguments, **options), seconds=_SECONDS)
        except SightlineError as error:
            raise ToolError(str(error)) from error

    server: MCPServer[Any] = MCPServer(
        "sightline",
        version=__version__,
        instructions="Search a collection of documents, and read them. Each result says which sentences answer, and "
        "where they stand in the document. Quote those, and name the document by its title and id.",
        log_level="WARNING",
    )

    @server.tool(annotations=_READS, structured_output=True)
    async def search(query: Query, k: K = 5, where: Where = None, min_score: MinScore = None) -> Results:
        """Find the passages of the collection that fit a question best.

        Every result has its document's id and title, the passage's text, up to three sentences that made it fit
        (evidence), and its relevance: the estimated probability that it answers the question, or null if that is not
        known. Passage and evidence have start and end: characters of the document's text, as get_document counts them.
        """
        if len(query) > _CHARACTERS:
            raise ToolError(f"the query has {len(query)} characters, and at most {_CHARACTERS} are allowed")
        evidence: Grain | None = (
            "sentence" if searcher.reranker is not None and searcher.reranker.has_evidence else None
        )
        result = await in_lane(
            searcher.search,
            query,
            k,
            where=where,
            evidence=evidence,
            unit="passage",
            min_score=least if min_score is None else min_score,
        )
        notes = list(result.warnings) if result.passages else ["nothing was found"]
        return {"results": [_in_json(hit) for hit in result.hits], "notes": notes}

    @server.tool(annotations=_READS, structured_output=True)
    async def get_document(id: Id, start: Start = 0, length: Length = 20_000) -> Text:
        """Read a document, or a part of it. If end is less than length, go on with end as the next start."""
        document = await in_lane(searcher.index.document, id)
        if document is None:
            raise ToolError(f"there is no document {id!r}; take an id from the results of search")
        part = document.text[start : start + length]
        return {
            "id": document.id,
            "title": document.title,
            "text": part,
            "start": start,
            "end": start + len(part),
            "length": len(document.text),
            "metadata": dict(document.metadata),
        }

    return server


def _in_json(hit: Hit) -> Found:
    spans = sorted((span for span in hit.evidence or () if span.field == "text"), key=lambda span: -span.mass)
    return {
        "id": hit.id,
        "title": hit.document.title,
        "text": hit.passage.text,
        "start": hit.passage.start,
        "end": hit.passage.end,
        "score": hit.score,
        "relevance": hit.relevance,
        "evidence": [
            {"text": e.text, "start": e.start, "end": e.end, "share": round(e.mass / (hit.mass or 1.0), 4)}
            for e in spans[:3]
        ],
        "metadata": dict(hit.document.metadata),
    }
