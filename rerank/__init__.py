"""The second stage: candidates, ranked by the attention that the query pays to each."""

from ..models.cache import DocumentCache
from ..models.reader import DocumentStates
from .base import Request, Reranker, Scored
from .cascade import CascadeReranker
from .evidence import Evidence, Pruned, prune
from .hub import push_to_hub
from .late_interaction import LateInteractionReranker
from .layout import Layout, load_layout
from .loading import RerankerInfo, list_rerankers, load_reranker
from .placement import arrange
from .pointwise import PointwiseReranker
from .results import Ranked, Ranking

__all__ = [
    "CascadeReranker",
    "DocumentCache",
    "DocumentStates",
    "Evidence",
    "LateInteractionReranker",
    "Layout",
    "PointwiseReranker",
    "Pruned",
    "Ranked",
    "Ranking",
    "Request",
    "Reranker",
    "RerankerInfo",
    "Scored",
    "arrange",
    "list_rerankers",
    "load_layout",
    "load_reranker",
    "prune",
    "push_to_hub",
]
