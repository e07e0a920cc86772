"""What the files of results hold, as types, and a check of JSON values against them."""

# No `from __future__ import annotations`: a TypedDict could not tell which of its fields are required.

import math
from types import NoneType, UnionType
from typing import Any, NotRequired, TypedDict, Union, get_args, get_origin, get_type_hints, is_typeddict

from ...errors import DataError

__all__ = ["Bias", "PerQuery", "Summary", "check"]

_LARGEST = 1e18  # beyond it, no axis could be drawn

PerQuery = dict[str, dict[str, dict[str, float]]]


class _Interval(TypedDict):
    mean: float
    low: float
    high: float


class _Comparison(TypedDict):
    measure: NotRequired[str]
    a: str
    b: str
    difference: _Interval
    p_t: float
    p_randomisation: NotRequired[float]
    p_holm: float
    wins: int
    ties: int
    losses: int


class _Change(TypedDict):
    id: str
    text: str
    a: float
    b: float


class _Changes(TypedDict):
    a: str
    b: str
    queries: list[_Change]


class _Latency(TypedDict):
    p50: float
    p90: float
    p99: float


class _Limits(TypedDict):
    flops: float | None
    bytes: float | None


class _Memory(TypedDict):
    peak_bytes: float


class _SystemCost(TypedDict):
    latency_ms: _Latency
    passages_per_second: float | None
    tokens_per_second: float | None
    flops_per_query: float | None
    bytes_per_query: float | None
    limit_ms: _Limits
    memory: _Memory


class _Machine(TypedDict):
    gemm_flops: float
    copy_bytes_per_second: float


class _Cost(TypedDict):
    queries: int
    machine: _Machine
    index_bytes: dict[str, float]
    systems: dict[str, _SystemCost]


class _DatasetHashes(TypedDict):
    queries: str
    qrels: str
    files: dict[str, str]


class _Hashes(TypedDict):
    dataset: _DatasetHashes
    runs: NotRequired[dict[str, str]]


class _Made(TypedDict):
    """How it was made."""

    command: NotRequired[str | None]
    git: NotRequired[str | None]
    hardware: NotRequired[dict[str, str | float | None]]
    versions: NotRequired[dict[str, str | float | None]]
    seeds: NotRequired[dict[str, str | float | None]]
    hashes: NotRequired[_Hashes]


class Summary(_Made):
    """``results.json``; what is not named here is not read."""

    dataset: str
    split: str
    queries: int
    depth: int
    systems: dict[str, dict[str, float]]
    intervals: dict[str, _Interval]
    comparisons: list[_Comparison]
    positives_added: NotRequired[bool]
    milliseconds_per_query: NotRequired[dict[str, float]]
    changes: NotRequired[list[_Changes]]
    cost: NotRequired[_Cost]


class _Spread(TypedDict):
    mean: float
    min: float
    max: float


class _Psi(TypedDict):
    value: float | None
    low: NotRequired[float | None]
    high: NotRequired[float | None]
    corrected: NotRequired[float | None]
    floor: NotRequired[float | None]
    floor_high: NotRequired[float | None]
    p: NotRequired[float | None]


class _Slot(TypedDict):
    slot: str | float
    value: float | None
    low: NotRequired[float | None]
    high: NotRequired[float | None]


class _Order(TypedDict):
    system: str
    measure: NotRequired[str]
    permutations: int
    queries: int
    documents: NotRequired[float]
    tau: _Interval
    tau_psi: float
    reversal_tau: NotRequired[_Interval]
    score_variance: float
    score_variance_share: NotRequired[float]
    rank_variance: float
    gold_rank_variance: float | None
    ndcg: _Spread
    per_permutation: NotRequired[list[float]]
    arrangements: NotRequired[dict[str, float | None]]
    gold_at: NotRequired[list[_Slot]]
    ends_minus_middle: NotRequired[_Interval | None]
    slot_psi: NotRequired[_Psi]


class _Bin(TypedDict):
    label: str
    queries: int
    mean: float | None
    low: float | None
    high: float | None


class _Trend(TypedDict):
    slope: float | None
    pearson: float | None
    spearman: float | None
    kendall: float | None


class _Position(TypedDict):
    system: str
    measure: str
    axis: NotRequired[str]
    length: NotRequired[str]
    queries: NotRequired[int]
    mean: NotRequired[float]
    bins: list[_Bin]
    psi: _Psi
    trend: NotRequired[_Trend | None]


class _Documents(TypedDict):
    """A system's other fields are facts of any kind."""

    system: str
    bins: NotRequired[list[_Bin]]
    psi: NotRequired[_Psi]


class Bias(_Made):
    """``bias.json``."""

    version: int
    dataset: NotRequired[str]
    split: NotRequired[str]
    queries: NotRequired[int]
    depth: NotRequired[int]
    candidates: NotRequired[int]
    seed: NotRequired[int]
    measure: NotRequired[str]
    order: NotRequired[list[_Order]]
    position: NotRequired[list[_Position]]
    documents: NotRequired[list[_Documents]]


def check(value: Any, kind: Any, where: str = "") -> None:
    """Check a JSON value against a type: TypedDicts, dicts, lists, unions, str, bool, int, float and None.

    Args:
        value: what ``json.loads`` gave.
        kind: its type. Fields that a TypedDict does not name may be anything; numbers must be finite.
        where: the way to the value, for messages.

    Raises:
        DataError: naming the first field that is wrong.

    Example:
        >>> check({"a": [1, 2.5]}, dict[str, list[float]])
        >>> check({"a": [1, "x"]}, dict[str, list[float]])
        Traceback (most recent call last):
        sightline.errors.DataError: the field a[1] must be a number, not "x"; evaluate again
    """
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        _check_any(value, get_args(kind), where)
    elif is_typeddict(kind):
        _expect(isinstance(value, dict), value, "an object", where)
        hints = get_type_hints(kind)
        for name in kind.__required_keys__:
            if name not in value:
                raise DataError(f"lacks the field {_way(where, name)}; evaluate again")
        for name in hints.keys() & value.keys():
            check(value[name], hints[name], _way(where, name))
    elif origin is dict:
        _expect(isinstance(value, dict), value, "an object", where)
        for name, item in value.items():
            check(item, get_args(kind)[1], _way(where, name))
    elif origin is list:
        _expect(isinstance(value, list), value, "a list", where)
        for number, item in enumerate(value):
            check(item, get_args(kind)[0], f"{where}[{number}]")
    elif kind in (int, float):
        number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        fits = number and (isinstance(value, int) or math.isfinite(value)) and abs(value) <= _LARGEST
        _expect(fits, value, "a whole number" if kind is int else "a number", where)
    elif kind is bool:
        _expect(isinstance(value, bool), value, "true or false", where)
    elif kind is str:
        _expect(isinstance(value, str), value, "a text", where)
    elif kind is NoneType:
        _expect(value is None, value, "null", where)
    else:
        raise AssertionError(f"no check for {kind}")


def _check_any(value: Any, kinds: tuple[Any, ...], where: str) -> None:
    """One of several types; what is said is what the nearest of them says."""
    said = []
    for kind in kinds:
        try:
            check(value, kind, where)
            return
        except DataError as error:
            said.append((isinstance(value, dict) and is_typeddict(kind), len(said) == 0, error))
    raise max(said, key=lambda item: item[:2])[2]


def _expect(right: bool, value: Any, what: str, where: str) -> None:
    if not right:
        shown = {dict: "an object", list: "a list", NoneType: "null"}.get(type(value))
        shown = shown or (f'"{value[:40]}"' if isinstance(value, str) else str(value)[:40])
        raise DataError(f"the field {where or 'at the top'} must be {what}, not {shown}; evaluate again")


def _way(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
