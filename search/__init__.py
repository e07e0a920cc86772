"""The pipeline of a search: retrieve, fuse, rerank, explain."""

from ..names import FirstStage
from .candidates import CandidateList
from .results import Explanation, Hit, SearchResult
from .searcher import Searcher

__all__ = ["CandidateList", "Explanation", "FirstStage", "Hit", "SearchResult", "Searcher"]
