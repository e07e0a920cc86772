"""The types of ``bias.json``, which `sightline.parsing.as_type` checks.

`sightline.eval.bias` measures it and says what each figure means. Fields with a default are ones that an older file may
lack.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files import replace_file
from ..parsing import as_type
from .provenance import Provenance
from .significance import Interval, Number

__all__ = [
    "VERSION",
    "Bias",
    "BiasBin",
    "DocumentRow",
    "OrderRow",
    "PositionRow",
    "Psi",
    "Slot",
    "Spread",
    "Trend",
    "parse_bias",
]

VERSION = 1


@dataclass(frozen=True, slots=True)
class Spread:
    """A measure over permutations of the candidates."""

    mean: Number
    min: Number
    max: Number


@dataclass(frozen=True, slots=True)
class Psi:
    """A Position Sensitivity Index, see `sightline.eval.bias.PSI`."""

    value: Number | None
    low: Number | None = None
    high: Number | None = None
    corrected: Number | None = None
    floor: Number | None = None
    floor_high: Number | None = None
    p: Number | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """The measure with a relevant document at one place of the list."""

    slot: str | int | float
    value: Number | None
    low: Number | None = None
    high: Number | None = None


@dataclass(frozen=True, slots=True)
class BiasBin:
    """The measure over the queries of one bin."""

    label: str
    queries: int
    mean: Number | None
    low: Number | None
    high: Number | None


@dataclass(frozen=True, slots=True)
class Trend:
    """Means of bins against their centres."""

    slope: Number | None
    pearson: Number | None
    spearman: Number | None
    kendall: Number | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRow:
    """One reranker, see `sightline.eval.bias.OrderBias`."""

    system: str
    measure: str = ""
    permutations: int
    queries: int
    documents: Number | None = None
    relevant_queries: int | None = None
    tau: Interval
    tau_psi: Number
    ppi: Interval | None = None
    gpi: Interval | None = None
    reversal_tau: Interval | None = None
    score_variance: Number
    score_variance_share: Number | None = None
    rank_variance: Number
    gold_rank_variance: Number | None
    ndcg: Spread
    per_permutation: list[Number] = field(default_factory=list)
    arrangements: dict[str, Number | None] = field(default_factory=dict)
    gold_at: list[Slot] = field(default_factory=list)
    ends_minus_middle: Interval | None = None
    slot_psi: Psi | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionRow:
    """One system on one axis, see `sightline.eval.bias.PositionBias`."""

    system: str
    measure: str
    axis: str = ""
    length: str = "all"
    queries: int | None = None
    mean: Number | None = None
    bins: list[BiasBin]
    psi: Psi
    trend: Trend | None = None


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """One system, see `sightline.eval.bias.DocumentBias`.

    Args:
        system: the name of the system.
        bins: the bins by the length of the relevant document.
        psi: the Position Sensitivity Index over these bins.
        facts: everything else that was measured, a number, a text or an interval each, by name.
    """

    system: str
    bins: list[BiasBin] = field(default_factory=list)
    psi: Psi | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bias:
    """The biases of several systems on one collection.

    Args:
        version: the version of the file's format.
        dataset: the name of the collection.
        split: the split of the judgements.
        queries: the number of judged queries.
        candidates: the number of candidates of each query, for ``position``.
        list_length: the number of documents in each list, for ``order`` and ``documents``.
        seed: the seed of permutations, exchanged ids, and intervals.
        measure: the measure of quality.
        order: the results by the order of candidates, one entry for each reranker.
        position: the results by the position of evidence, one entry for each system and axis.
        documents: the results by properties of documents, one entry for each system.
        provenance: how the biases were measured.
    """

    version: int
    dataset: str | None = None
    split: str = ""
    queries: int = 0
    candidates: int = 0
    list_length: int = 0
    seed: int = 0
    measure: str = ""
    order: list[OrderRow] = field(default_factory=list)
    position: list[PositionRow] = field(default_factory=list)
    documents: list[DocumentRow] = field(default_factory=list)
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise DataError(f"version {self.version!r}; this Sightline reads {VERSION}")

    def as_json(self) -> dict[str, Any]:
        """Return the content of ``bias.json``."""
        fields = dataclasses.asdict(self)
        del fields["provenance"]
        fields["documents"] = [
            {"system": row["system"], **row["facts"], "bins": row["bins"], "psi": row["psi"]}
            for row in fields["documents"]
        ]
        return {**fields, **self.provenance.as_json()}

    def save(self, folder: Path) -> None:
        """Write ``bias.json``.

        Args:
            folder: the folder to write into, which must exist.
        """
        text = json.dumps(self.as_json(), indent=2, ensure_ascii=False, allow_nan=False)
        replace_file(folder / "bias.json", text.encode())


def parse_bias(body: Any) -> Bias:
    """Make a `Bias` of the content of ``bias.json``.

    Args:
        body: the content, as `sightline.parsing.load_json` returned it.

    Raises:
        DataError: if a field is wrong, or the file is of another version. The error names the first such field.
    """
    rows = body.get("documents") if isinstance(body, dict) else None
    if isinstance(rows, list):
        body = {**body, "documents": [_with_facts(row) if isinstance(row, dict) else row for row in rows]}
    bias = as_type(body, Bias)
    return dataclasses.replace(bias, provenance=as_type(body, Provenance))


def _with_facts(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose columns that are not fields of `DocumentRow` are together under ``facts``."""
    facts = {name: value for name, value in row.items() if name not in ("system", "bins", "psi")}
    return {**{name: value for name, value in row.items() if name not in facts}, "facts": facts}
