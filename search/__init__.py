"""The pipeline: retrieve, fuse, rerank, explain."""

from .searcher import Explanation, FirstStage, Hit, Searcher, SearchResult

__all__ = ["Explanation", "FirstStage", "Hit", "SearchResult", "Searcher"]
