"""Second stage: all candidates in one context, ranked by the attention that the query pays to each."""

from .layout import Layout, load_layout
from .minilm import MiniLMReranker
from .placement import arrange
from .reranker import DocumentStates, Evidence, Ranked, Ranking, Reranker, load_reranker

__all__ = [
    "DocumentStates",
    "Evidence",
    "Layout",
    "MiniLMReranker",
    "Ranked",
    "Ranking",
    "Reranker",
    "arrange",
    "load_layout",
    "load_reranker",
]
