"""Requests and responses as pydantic models, from which the OpenAPI document is made."""

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
    "each gap. Refused (422) if the reranker cannot mark evidence."
)


MinScore = Annotated[
    float | None,
    Field(
        ge=0,
        le=1,
        description="Leave out results whose relevance is below this number. If none is left, a warning says so. If "
        "absent or null, the server's default applies; 0 leaves nothing out. Refused (422) if the reranker has no "
        "relevance.",
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

    query: str = Field(description="The text to search for.")
    k: int = Field(10, ge=1, le=1000, description="The maximum number of hits.")
    where: dict[str, Any] | None = Field(
        default=None,
        max_length=100,
        description='A metadata filter, such as {"lang": "en", "year": {">=": 2000}}. A list means "one of"; '
        "null means that the field is absent or null.",
    )
    evidence: Grain | None = Field(
        default=None, description="Mark the parts of each hit that got the attention, by sentence or by token."
    )
    prune: float | None = Field(default=None, gt=0, le=1, description=_PRUNE)
    unit: Unit = Field(
        default="document",
        description="document returns each document once, by its best passage; passage returns passages.",
    )
    min_score: MinScore = None

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": _CATS, "k": 3, "evidence": "sentence", "where": {"lang": "en"}}]}
    )


class EvidenceSpan(BaseModel):
    """Characters ``[start, end)`` of the document's ``field``, and their share of the query's attention."""

    start: int = Field(description="The first character, counted from 0.")
    end: int = Field(description="The character after the last.")
    mass: float = Field(description="The share of the query's attention among all candidates.")
    text: str = Field(description="The characters themselves.")
    field: Literal["text", "title"] = Field(description="The part of the document that they stand in.")


class SearchHit(BaseModel):
    """One result.

    ``text`` is the passage: characters ``[start, end)`` of the document, which has ``length`` characters.
    """

    rank: int = Field(description="The place in the result, counted from 1.")
    id: str = Field(description="The id of the document.")
    score: float = Field(description="The score of the last stage. Higher is better.")
    relevance: float | None = Field(
        default=None,
        description="The probability that the document is relevant, from 0 to 1. Absent without a reranker, or if "
        "the reranker is not calibrated.",
    )
    title: str = Field(description="The title of the document.")
    text: str = Field(description="The text of the passage.")
    start: int = Field(description="The first character of the passage in the document's text, counted from 0.")
    end: int = Field(description="The character after the last of the passage.")
    length: int = Field(description="The number of characters of the document's text.")
    metadata: dict[str, Any] = Field(description="The metadata of the document.")
    first_rank: int = Field(description="The rank of the document in the first stage, counted from 1.")
    first_score: float = Field(description="The score of the document in the first stage.")
    mass: float | None = Field(
        default=None,
        description="The passage's share of the query's attention among all candidates. Absent without a reranker.",
    )
    evidence: list[EvidenceSpan] | None = Field(
        default=None, description="The marked parts, the one with most attention first. Absent if none were asked for."
    )
    pruned_text: str | None = Field(
        default=None,
        description="The sentences of the passage that hold the share given by prune. Absent without prune.",
    )
    token_mass: list[float] | None = Field(
        default=None, description="The mass by query token, in the order of query_tokens. Absent without a reranker."
    )


class SearchResponse(BaseModel):
    """The answer to a query."""

    query: str = Field(description="The query of the request.")
    hits: list[SearchHit] = Field(description="The hits, best first.")
    passages: int = Field(
        description="The number of passages that the reranker read, or that the first stage found if there is no "
        "reranker."
    )
    first_stage: str = Field(description="The name of the first stage.")
    reranker: str | None = Field(description="The name of the reranker. Absent if there is none.")
    query_tokens: list[str] = Field(description="The tokens of the query whose attention counts.")
    truncated: int = Field(description="The number of candidates that were not read to their end.")
    warnings: list[str] = Field(description="Sentences that you should know before you rely on the result.")
    milliseconds: dict[str, float] = Field(
        description="The time of each step: retrieve, fetch and, with a reranker, rerank."
    )


# -- rerank ------------------------------------------------------------------------------------------------------------


class RerankDocument(_Foreign):
    """A document as an object. Other fields are returned with it, and are not read."""

    text: str | None = Field(
        description="The text. It may be empty or null; a document without text and title is ranked last."
    )
    title: str | None = Field(default=None, description="The title, which is read before the text.")


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
    """A list to rank, as the clients of Cohere, Jina and vLLM send it."""

    model: str | None = Field(default=None, description="One of the names that /v1/models lists. It may be left out.")
    query: str = Field(description="The text to rank the documents by.")
    documents: Annotated[list[RerankInput], FailFast()] = Field(
        min_length=1, description="The documents: strings, or objects with text and optionally title."
    )
    top_n: int | None = Field(
        default=None,
        ge=0,
        description="The maximum number of results; 0 or null for all. All documents are ranked in any case.",
    )
    return_documents: bool | None = Field(default=None, description="Whether to return the document of each result.")
    max_tokens_per_doc: int | None = Field(
        default=None, ge=1, description="The maximum number of tokens to read of a document."
    )
    truncate_prompt_tokens: int | None = Field(
        default=None,
        ge=-1,
        description="The maximum number of tokens to read of the query and a document together; -1 for the model's "
        "limit.",
    )
    evidence: Grain | None = Field(
        default=None,
        description="Mark the parts of each document that got the attention, by sentence or by token. Only Sightline "
        "has "
        "this field.",
    )
    prune: float | None = Field(default=None, gt=0, le=1, description=f"{_PRUNE} Only Sightline has this field.")
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
    """One document's place in the ranking."""

    index: int = Field(description="The place of the document in the request, counted from 0.")
    relevance_score: float = Field(
        description="If meta.scores is relevance, the probability that the document is relevant, from 0 to 1. If it "
        "is raw, the reranker's own score, of any size. Higher is better."
    )
    document: RerankDocument | None = Field(default=None, description="The document. Absent without return_documents.")
    evidence: list[EvidenceSpan] | None = Field(
        default=None, description="The marked parts, the one with most attention first. Absent if none were asked for."
    )
    pruned_text: str | None = Field(
        default=None, description="The sentences of the text that hold the share given by prune. Absent without prune."
    )


class Usage(BaseModel):
    """The number of tokens that the model read."""

    prompt_tokens: int = Field(description="The tokens of the query and of all documents; 0 if they cannot be counted.")
    total_tokens: int = Field(description="The same number.")


class RerankMeta(BaseModel):
    """Further information about the ranking."""

    api_version: dict[str, str] = Field(description="The version of Cohere's format, for its clients.")
    billed_units: dict[str, int] = Field(description="Always one search unit, for Cohere's clients.")
    warnings: list[str] | None = Field(
        default=None,
        description="Sentences that you should know before you rely on the ranking. Absent if there are none.",
    )
    scores: ScoreKind = Field(
        description="The kind of relevance_score: relevance, the probability that the document is relevant, from 0 to "
        "1; or raw, the reranker's own score, because it has no relevance. In that case a warning says so, too."
    )
    truncated: int = Field(description="The number of documents that were not read to their end.")


class RerankResponse(BaseModel):
    """The ranking."""

    id: str = Field(description="A random id of the response.")
    object: Literal["rerank"] = Field(default="rerank", description="Always rerank.")
    model: str = Field(description="The model of the request, or the name of the reranker.")
    results: list[RerankResult] = Field(description="The results, best first.")
    usage: Usage
    meta: RerankMeta


class TeiRequest(_Foreign):
    """A list to rank, as clients of text-embeddings-inference send it."""

    query: str = Field(description="The text to rank the texts by.")
    texts: Annotated[list[str], FailFast()] = Field(min_length=1, description="The texts to rank.")
    raw_scores: bool | None = Field(
        default=None,
        description="Whether to return the reranker's own score rather than the relevance from 0 to 1. A reranker "
        "without relevance returns its own score either way. The header Sightline-Scores says which it is.",
    )
    min_score: MinScore = None
    return_text: bool | None = Field(default=None, description="Whether to return each text.")
    truncate: bool | None = Field(
        default=None,
        description="Whether to cut a text that the model cannot read to its end. If false, it is refused (422). If "
        "absent or null, it is cut.",
    )
    truncation_direction: Literal["right", "Right"] | None = Field(
        default=None, description="The end at which texts are cut; only the right one."
    )

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": _CATS, "texts": ["Dogs bark.", "Cats purr."], "return_text": True}]}
    )


class TeiItem(BaseModel):
    """One text's place in the ranking."""

    index: int = Field(description="The place of the text in the request, counted from 0.")
    score: float = Field(
        description="The score. Higher is better. The header Sightline-Scores says whether it is a relevance."
    )
    text: str | None = Field(default=None, description="The text. Absent without return_text.")


def dialect(value: Any) -> str:
    """Tell in which format a request to ``/rerank`` is written: that of text-embeddings-inference has ``texts``."""
    return "texts" if isinstance(value, TeiRequest) or (isinstance(value, dict) and "texts" in value) else "documents"


AnyRerankRequest = Annotated[
    Annotated[RerankRequest, Tag("documents")] | Annotated[TeiRequest, Tag("texts")], Discriminator(dialect)
]


# -- documents ---------------------------------------------------------------------------------------------------------


class DocumentIn(_Own):
    """A document to index."""

    id: str = Field(min_length=1, description="The id, unique in the index.")
    text: str | None = Field(
        description="The text. It may be empty or null; a document without text is found by its title."
    )
    title: str = Field(default="", description="The title, which is searched and read with the text.")
    metadata: dict[str, Any] = Field(default_factory=dict, description="JSON values by field, for filters.")


class DocumentsRequest(_Own):
    """Documents to index, committed batch by batch."""

    documents: Annotated[list[DocumentIn], FailFast()] = Field(
        min_length=1, description="The documents. Each id may occur once."
    )

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"documents": [{"id": "cats", "text": "Cats purr.", "metadata": {"lang": "en"}}]}]
        }
    )


class DocumentOut(BaseModel):
    """A whole document of the index."""

    id: str = Field(description="The id.")
    title: str = Field(description="The title, or an empty string.")
    text: str = Field(description="The whole text.")
    metadata: dict[str, Any] = Field(description="The metadata.")


class WrittenResponse(BaseModel):
    """The number of documents that were written or deleted, and what the index holds now."""

    written: int = Field(default=0, description="The number of documents that were added or replaced.")
    deleted: int = Field(default=0, description="The number of documents that were deleted.")
    documents: int = Field(description="The number of documents in the index now.")
    passages: int = Field(description="The number of passages in the index now.")


# -- the rest ----------------------------------------------------------------------------------------------------------


class IndexCounts(BaseModel):
    """The size of the index."""

    documents: int = Field(description="The number of documents.")
    passages: int = Field(description="The number of passages.")


class ModelOut(BaseModel):
    """A name that requests may give as their model."""

    id: str = Field(description="The name.")
    object: Literal["model"] = Field(default="model", description="Always model.")
    created: int = Field(description="The time at which the server started, in seconds since 1970.")
    owned_by: str = Field(default="sightline", description="Always sightline.")


class ModelsResponse(BaseModel):
    """The names of the model that is served, in the format in which OpenAI's API lists models."""

    object: Literal["list"] = Field(default="list", description="Always list.")
    data: list[ModelOut] = Field(description="The names, first the one of the reranker.")


class HealthResponse(BaseModel):
    """The state of the server, and what it serves."""

    status: Literal["ok", "stopping", "failing"] = Field(
        description="ok; stopping, if the server is about to end; or failing, if its index cannot be read."
    )
    version: str = Field(description="The version of Sightline.")
    model: str | None = Field(description="The name of the reranker. Absent if there is none.")
    layout: str | None = Field(description="The layout of the reranker, or its kind. Absent without a reranker.")
    evidence: bool = Field(description="Whether the reranker can mark evidence.")
    relevance: bool = Field(
        description="Whether the reranker has a relevance from 0 to 1, so that min_score can be used."
    )
    min_score: float | None = Field(
        default=None, description="The min_score of requests that give none. Absent if nothing is left out."
    )
    first_stage: str | None = Field(description="The name of the first stage. Absent without an index.")
    index: IndexCounts | None = Field(description="The size of the index. Absent if there is none.")
    problem: str | None = Field(
        default=None, description="A sentence that says what is wrong with the index. Absent if it works."
    )
    examples: list[str] | None = Field(
        default=None,
        description="Titles or first words of some documents, as suggestions of what to search for. Absent without an "
        "index.",
    )


class ErrorDetail(BaseModel):
    """What was wrong, and what to do."""

    type: str = Field(description="The kind of the error, such as InputError.")
    message: str = Field(description="One sentence that says what was wrong, where, and what to do.")
    code: int = Field(description="The status code of the response.")
    request_id: str | None = Field(
        default=None, description="The id of the request, as in the header X-Request-ID and in the server's log."
    )


class ErrorResponse(BaseModel):
    """The format of every error."""

    error: ErrorDetail
