"""The pipeline: retrieve, fuse, rerank, explain."""

from .candidates import CandidateList
from .first_stage import FirstStage
from .results import Explanation, Hit, SearchResult
from .searcher import Searcher

__all__ = ["CandidateList", "Explanation", "FirstStage", "Hit", "SearchResult", "Searcher"]
