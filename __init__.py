"""Sightline: search that reads every candidate at once, and shows what it looked at.

    >>> from sightline import Document, Index, Searcher
    >>> documents = [Document("a", "Cats purr when content."), Document("b", "Dogs bark at strangers.")]
    >>> import tempfile
    >>> searcher = Searcher(Index.build(tempfile.mkdtemp() + "/index", documents))
    >>> searcher.search("feline sounds", k=1).hits[0].id
    'a'

Names are imported when they are first used, so that ``import sightline`` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .facades import lazy_names
from .forking import compute_alone_after_fork

if TYPE_CHECKING:
    from .documents import Document, Passage
    from .errors import SightlineError
    from .models.encoder import Encoder, load_encoder
    from .rerank import (
        Evidence,
        LateInteractionReranker,
        Layout,
        Ranked,
        Ranking,
        Reranker,
        arrange,
        list_rerankers,
        load_layout,
        load_reranker,
        push_to_hub,
    )
    from .retrieval.index import Index
    from .retrieval.sources import load_documents
    from .retrieval.stores import open_store
    from .search import CandidateList, Explanation, Hit, Searcher, SearchResult

__version__ = "0.1.0"

compute_alone_after_fork()

_WHERE = {
    "CandidateList": "search",
    "Document": "documents",
    "Encoder": "models.encoder",
    "Evidence": "rerank",
    "Explanation": "search",
    "Hit": "search",
    "Index": "retrieval.index",
    "Layout": "rerank",
    "LateInteractionReranker": "rerank",
    "Passage": "documents",
    "Ranked": "rerank",
    "Ranking": "rerank",
    "Reranker": "rerank",
    "SearchResult": "search",
    "Searcher": "search",
    "SightlineError": "errors",
    "arrange": "rerank",
    "list_rerankers": "rerank",
    "load_encoder": "models.encoder",
    "load_layout": "rerank",
    "load_reranker": "rerank",
    "load_documents": "retrieval.sources",
    "open_store": "retrieval.stores",
    "push_to_hub": "rerank",
}

__all__ = [
    "CandidateList",
    "Document",
    "Encoder",
    "Evidence",
    "Explanation",
    "Hit",
    "Index",
    "LateInteractionReranker",
    "Layout",
    "Passage",
    "Ranked",
    "Ranking",
    "Reranker",
    "SearchResult",
    "Searcher",
    "SightlineError",
    "arrange",
    "list_rerankers",
    "load_documents",
    "load_encoder",
    "load_layout",
    "load_reranker",
    "open_store",
    "push_to_hub",
]


__getattr__, __dir__ = lazy_names(__name__, _WHERE)
