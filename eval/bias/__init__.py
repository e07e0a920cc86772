"""Bias: how far a system's answers depend on something other than relevance.

Three things are varied, or looked at as they are. The order of the candidates, for rerankers: each list is ranked in
random orders, best and worst first, and with a relevant document at places from top to bottom (`measure_order`). The
evidence inside the document, for any system: quality by the place of the answer, and its Position Sensitivity Index
(`measure_position`). And the documents themselves: their length, copies and near-duplicates of them, and their ids
(`measure_documents`). `measure_bias` does all three for the systems of an evaluation and writes ``bias.json``. A system
without a bias shows exactly 0 where that is possible, and elsewhere an interval that contains 0.
"""

from .documents import DocumentBias, measure_documents
from .order import OrderBias, measure_order
from .position import Bins, PositionBias, Span, measure_position
from .positions import PositionDataset, load_posir, load_positions, load_spans, load_squad
from .preferences import global_inconsistency, pairwise_instability
from .sensitivity import PSI, grouped_psi, paired_psi, psi
from .study import KINDS, measure_bias

__all__ = [
    "KINDS",
    "PSI",
    "Bins",
    "DocumentBias",
    "OrderBias",
    "PositionBias",
    "PositionDataset",
    "Span",
    "global_inconsistency",
    "grouped_psi",
    "load_posir",
    "load_positions",
    "load_spans",
    "load_squad",
    "measure_bias",
    "measure_documents",
    "measure_order",
    "measure_position",
    "paired_psi",
    "pairwise_instability",
    "psi",
]
