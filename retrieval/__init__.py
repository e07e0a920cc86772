"""The first stage: documents from files, indexes, and the engines that search them.

>>> from sightline.retrieval import Index, load_documents
>>> import tempfile
>>> documents = load_documents([{"id": "a", "text": "Cats purr."}, {"id": "b", "text": "Dogs bark."}])
>>> with Index.build(tempfile.mkdtemp() + "/index", documents) as index:
...     index.search_lexical("barking", k=1)[0].tolist()
[1]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..facades import lazy_names

if TYPE_CHECKING:
    from .faiss_index import FaissIndex
    from .filters import Filter
    from .fts5 import Fts5Index
    from .index import Index
    from .lexical_index import LexicalIndex
    from .manifest import Manifest
    from .planning import IndexSettings
    from .pyserini_index import PyseriniIndex
    from .qdrant_store import QdrantStore
    from .sources import as_documents, guess_format, load_documents
    from .sources.summary import LoadSummary
    from .sparse_index import SparseIndex
    from .store import StoredPassage
    from .stores import Store, build_store, copy_store, open_store
    from .tantivy_index import TantivyIndex
    from .torch_index import TorchIndex
    from .vector_index import VectorIndex

_WHERE = {
    "FaissIndex": "faiss_index",
    "Filter": "filters",
    "Fts5Index": "fts5",
    "Index": "index",
    "IndexSettings": "planning",
    "LexicalIndex": "lexical_index",
    "Manifest": "manifest",
    "PyseriniIndex": "pyserini_index",
    "QdrantStore": "qdrant_store",
    "Store": "stores",
    "build_store": "stores",
    "copy_store": "stores",
    "open_store": "stores",
    "LoadSummary": "sources.summary",
    "SparseIndex": "sparse_index",
    "StoredPassage": "store",
    "TantivyIndex": "tantivy_index",
    "TorchIndex": "torch_index",
    "VectorIndex": "vector_index",
    "as_documents": "sources",
    "guess_format": "sources",
    "load_documents": "sources",
}

__all__ = [
    "FaissIndex",
    "Filter",
    "Fts5Index",
    "Index",
    "IndexSettings",
    "LexicalIndex",
    "LoadSummary",
    "Manifest",
    "PyseriniIndex",
    "QdrantStore",
    "SparseIndex",
    "Store",
    "StoredPassage",
    "TantivyIndex",
    "TorchIndex",
    "VectorIndex",
    "as_documents",
    "build_store",
    "copy_store",
    "guess_format",
    "load_documents",
    "open_store",
]


__getattr__, __dir__ = lazy_names(__name__, _WHERE)
