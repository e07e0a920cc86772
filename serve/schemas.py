"""What comes in and what goes out, as pydantic models: the OpenAPI document is made of these."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, FailFast, Field, Tag

from ..documents import Grain, Unit

__all__ = [
    "DocumentIn",
    "DocumentOut",
    "DocumentsRequest",
    "ErrorResponse",
    "HealthResponse",
    "ModelOut",
    "ModelsResponse",
    "RerankDocument",
    "RerankRequest",
    "RerankResponse",
    "ScoreKind",
    "SearchRequest",
    "SearchResponse",
    "TeiItem",
    "TeiRequest",
    "WrittenResponse",
]

ScoreKind = Literal["relevance", "raw"]

_CATS = "what sound does a happy cat make"
_PRUNE = (
    "Add pruned_text: the sentences that hold this share of the attention on the text, in order, with an ellipsis for "
    "each gap. Refused (422) if the reranker marks no evidence."
)


MinScore = Annotated[
    float | None,
    Field(
        ge=0,
        le=1,
        description="Leave out what has a relevance below this; there may be nothing left, and a warning says so. If "
        "absent or null, the server's default; 0 leaves nothing out. Refused (422) if the reranker has no relevance.",
    ),
]


class _Own(BaseModel):
    """A request in our own format: unknown fields are mistakes."""

    model_config = ConfigDict(strict=True, extra="forbid")


class _Foreign(BaseModel):
    """A request in another server's format, whose clients may send unknown fields; the answer warns of them."""

    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, Any] = Field(init=False)


# -- search ------------------------------------------------------------------------------------------------------------


class SearchRequest(_Own):
    """A query to the index."""

    query: str = Field(description="What to look for.")
    k: int = Field(10, ge=1, le=1000, description="How many hits at most.")
    where: dict[str, Any] | None = Field(
        None,
        max_length=100,
        description='Metadata filter: {"lang": "en", "year": {">=": 2000}}; a list means one of, null means absent.',
    )
    evidence: Grain | None = Field(None, description="Mark what got the attention, by sentence or by token.")
    prune: float | None = Field(None, gt=0, le=1, description=_PRUNE)
    unit: Unit = Field("document", description="Each document once, by its best passage; or every passage.")
    min_score: MinScore = None

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": _CATS, "k": 3, "evidence": "sentence", "where": {"lang": "en"}}]}
    )


class EvidenceSpan(BaseModel):
    """Characters ``[start, end)`` of the document's ``field``, and their share of the query's attention."""

    start: int
    end: int
    mass: float
    text: str
    field: Literal["text", "title"]


class SearchHit(BaseModel):
    """One result; ``text`` is the passage, characters ``[start, end)`` of the ``length`` that its document has."""

    rank: int
    id: str
    score: float = Field(description="The score of the last stage; higher is better.")
    relevance: float | None = Field(
        None, description="P(relevant), from 0 to 1; absent without a reranker, or if the reranker is not calibrated."
    )
    title: str
    text: str
    start: int
    end: int
    length: int
    metadata: dict[str, Any]
    first_rank: int = Field(description="The document's rank in the first stage.")
    first_score: float
    mass: float | None = Field(None, description="The passage's share of the query's attention among all candidates.")
    evidence: list[EvidenceSpan] | None = None
    pruned_text: str | None = Field(None, description="The passage's sentences that hold the share asked for.")
    token_mass: list[float] | None = Field(None, description="The share by query token.")


class SearchResponse(BaseModel):
    """The answer to a query, best hit first."""

    query: str
    hits: list[SearchHit]
    passages: int
    first_stage: str
    reranker: str | None
    query_tokens: list[str]
    truncated: int = Field(description="Candidates that were not read to their end.")
    warnings: list[str]
    milliseconds: dict[str, float]


# -- rerank ------------------------------------------------------------------------------------------------------------


class RerankDocument(_Foreign):
    """A document as an object; other fields come back with it, and are not read."""

    text: str | None = Field(description="May be empty or null; a document without text and title is ranked last.")
    title: str | None = None


def _document_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, dict | RerankDocument) else None


RerankInput = Annotated[
    Annotated[str, Tag("string")] | Annotated[RerankDocument, Tag("object")],
    Discriminator(
        _document_kind,
        custom_error_type="document",
        custom_error_message="must be a string, or an object with 'text'",
    ),
]


class RerankRequest(_Foreign):
    """A list to rank, as Cohere's, Jina's and vLLM's clients send it."""

    model: str | None = Field(None, description="If given, one of the names that /v1/models lists.")
    query: str
    documents: Annotated[list[RerankInput], FailFast()] = Field(
        min_length=1, description="Strings, or objects with text and maybe title."
    )
    top_n: int | None = Field(
        None, ge=0, description="How many results at most; 0 or null for all. All documents are ranked."
    )
    return_documents: bool | None = Field(None, description="Send each result's document back.")
    max_tokens_per_doc: int | None = Field(None, ge=1, description="Read at most so many tokens of a document.")
    truncate_prompt_tokens: int | None = Field(
        None, ge=-1, description="Read at most so many tokens of query and document together; -1 for the model's limit."
    )
    evidence: Grain | None = Field(None, description="Mark what got the attention; ours, in no other dialect.")
    prune: float | None = Field(None, gt=0, le=1, description=f"{_PRUNE} Ours, in no other dialect.")
    min_score: MinScore = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "minilm",
                    "query": _CATS,
                    "documents": ["Dogs bark at strangers.", {"text": "Cats purr when content.", "title": "Cats"}],
                    "top_n": 1,
                    "return_documents": True,
                }
            ]
        }
    )


class RerankResult(BaseModel):
    """One document's place: ``index`` in the request's list."""

    index: int
    relevance_score: float = Field(
        description="P(relevant), from 0 to 1, if meta.scores is relevance; the reranker's own score, of any size, if "
        "it is raw. Higher is better."
    )
    document: RerankDocument | None = None
    evidence: list[EvidenceSpan] | None = None
    pruned_text: str | None = Field(None, description="The text's sentences that hold the share asked for.")


class Usage(BaseModel):
    """Tokens that the model read."""

    prompt_tokens: int
    total_tokens: int


class RerankMeta(BaseModel):
    """What the reader of the ranking should know."""

    api_version: dict[str, str]
    billed_units: dict[str, int]
    warnings: list[str] | None = None
    scores: ScoreKind = Field(
        description="What relevance_score is: relevance, P(relevant) from 0 to 1; or raw, the reranker's own score, "
        "since it has no relevance. A warning says so too."
    )
    truncated: int = Field(description="Documents that were not read to their end.")


class RerankResponse(BaseModel):
    """The ranking, best first."""

    id: str
    object: Literal["rerank"] = "rerank"
    model: str
    results: list[RerankResult]
    usage: Usage
    meta: RerankMeta


class TeiRequest(_Foreign):
    """A list to rank, as clients of text-embeddings-inference send it."""

    query: str
    texts: Annotated[list[str], FailFast()] = Field(min_length=1)
    raw_scores: bool | None = Field(
        None,
        description="The reranker's own score rather than the relevance between 0 and 1. A reranker without relevance "
        "gives its own score either way; the header Sightline-Scores says which it is.",
    )
    min_score: MinScore = None
    return_text: bool | None = None
    truncate: bool | None = Field(None, description="False refuses a text that the model cannot read to its end.")
    truncation_direction: Literal["right", "Right"] | None = None

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": _CATS, "texts": ["Dogs bark.", "Cats purr."], "return_text": True}]}
    )


class TeiItem(BaseModel):
    """One text's place: ``index`` in the request's list."""

    index: int
    score: float = Field(description="Higher is better; the header Sightline-Scores says whether it is a relevance.")
    text: str | None = None


def dialect(value: Any) -> str:
    """Which dialect a request to ``/rerank`` speaks: text-embeddings-inference has ``texts``."""
    return "texts" if isinstance(value, TeiRequest) or (isinstance(value, dict) and "texts" in value) else "documents"


AnyRerankRequest = Annotated[
    Annotated[RerankRequest, Tag("documents")] | Annotated[TeiRequest, Tag("texts")], Discriminator(dialect)
]


# -- documents ---------------------------------------------------------------------------------------------------------


class DocumentIn(_Own):
    """A document to keep."""

    id: str = Field(min_length=1)
    text: str | None = Field(description="May be empty or null; a document without text is found by its title.")
    title: str = ""
    metadata: dict[str, Any] = Field(default_factory=dict)


class DocumentsRequest(_Own):
    """Documents to keep, committed batch by batch."""

    documents: Annotated[list[DocumentIn], FailFast()] = Field(min_length=1)

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"documents": [{"id": "cats", "text": "Cats purr.", "metadata": {"lang": "en"}}]}]
        }
    )


class DocumentOut(BaseModel):
    """A document of the index, whole."""

    id: str
    title: str
    text: str
    metadata: dict[str, Any]


class WrittenResponse(BaseModel):
    """How many documents were written or deleted, and what the index holds now."""

    written: int = 0
    deleted: int = 0
    documents: int
    passages: int


# -- the rest ----------------------------------------------------------------------------------------------------------


class IndexCounts(BaseModel):
    """What the index holds."""

    documents: int
    passages: int


class ModelOut(BaseModel):
    """A name that requests may give as their model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "sightline"


class ModelsResponse(BaseModel):
    """The names of the model that is served, as OpenAI's API lists models."""

    object: Literal["list"] = "list"
    data: list[ModelOut]


class HealthResponse(BaseModel):
    """Whether the server works, and what it serves."""

    status: Literal["ok", "stopping", "failing"]
    version: str
    model: str | None = Field(description="The reranker, as it was asked for.")
    layout: str | None = Field(description="The reranker's layout, or its kind.")
    evidence: bool = Field(description="Whether the reranker can mark what got the attention.")
    relevance: bool = Field(description="Whether the reranker gives P(relevant), so that min_score can be used.")
    min_score: float | None = Field(None, description="The min_score of requests that give none.")
    first_stage: str | None
    index: IndexCounts | None
    problem: str | None = Field(None, description="What is wrong with the index, if it fails.")
    examples: list[str] | None = Field(None, description="Titles of some documents, as examples of what to search for.")


class ErrorDetail(BaseModel):
    """What was wrong and what to do."""

    type: str
    message: str
    code: int
    request_id: str | None = Field(None, description="The answer's X-Request-ID, which the server's log has, too.")


class ErrorResponse(BaseModel):
    """Every error has this shape."""

    error: ErrorDetail
