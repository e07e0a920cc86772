"""Second stage: all candidates in one context, ranked by the attention that the query pays to each."""

from .base import Reranker
from .late_interaction import LateInteractionReranker
from .layout import Layout, load_layout
from .loading import load_reranker
from .placement import arrange
from .results import (
    DocumentStates,
    Evidence,
    Ranked,
    Ranking,
)

__all__ = [
    "DocumentStates",
    "Evidence",
    "LateInteractionReranker",
    "Layout",
    "Ranked",
    "Ranking",
    "Reranker",
    "arrange",
    "load_layout",
    "load_reranker",
]
