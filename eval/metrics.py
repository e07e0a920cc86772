"""Measures by ir_measures (MacAvaney et al., 2022), which judge the order that a system returned."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError

__all__ = ["DEFAULT_MEASURES", "check_measures", "measure_rankings", "split_measures"]

DEFAULT_MEASURES = ("nDCG@10", "RR@10", "R@100")

_LARGEST_CUTOFF = 1_000_000


def split_measures(text: str) -> list[str]:
    """Names of measures out of one text, each once, with commas between them; those in parentheses belong to a name.

    Example:
        >>> split_measures("nDCG@10, AP(rel=2)@100,SDCG(dcg='log2', max_rel=3)@5")
        ['nDCG@10', 'AP(rel=2)@100', "SDCG(dcg='log2', max_rel=3)@5"]
    """
    return list(dict.fromkeys(name.strip() for name in re.split(r",(?![^(]*\))", text) if name.strip()))


def check_measures(measures: Sequence[str]) -> None:
    """Refuse measures that cannot be computed here, before any work is done for them.

    Args:
        measures: names that ir_measures knows.

    Raises:
        InputError: if there is no measure, or one is unknown, has an impossible parameter, or needs a tool that is
            not installed.

    Example:
        >>> check_measures(["nDCG@10", "AP(rel=2)@100"])
    """
    measure_rankings({"q": {"d": 1}}, {"q": ["d"]}, measures)


def _parse(name: str) -> Any:
    """A measure by its name.

    Raises:
        InputError: if ir_measures has no such measure, or a parameter is not possible. Its tools end the whole process
            at some of them, so nothing that is not possible may reach them.
    """
    import ir_measures

    try:
        measure: Any = ir_measures.parse_measure(name)
    except KeyError as error:
        raise InputError(f"the measure {name!r} has an unknown parameter: {error.args[0]!r}") from None
    except (NameError, ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise InputError(_unknown(name)) from None
    cutoff = measure.params.get("cutoff")
    if cutoff is not None and (type(cutoff) is not int or not 1 <= cutoff <= _LARGEST_CUTOFF):
        raise InputError(
            f"the measure {name!r} has an impossible cutoff; it must be a whole number from 1 to {_LARGEST_CUTOFF:,}"
        )
    relevant = measure.params.get("rel")
    if relevant is not None and (type(relevant) is not int or not 1 <= relevant < 2**31):
        raise InputError(f"the measure {name!r} has an impossible rel; it must be a whole number of at least 1")
    try:
        measure.validate_params()
    except (AssertionError, TypeError, ValueError):
        raise InputError(f"the measure {name!r} cannot be computed; {_parameters(measure)}") from None
    return measure


def _unknown(name: str) -> str:
    """What there is, for a name that is not."""
    from ir_measures.measures import registry

    word = re.split(r"[@(]", str(name))[0].strip()
    if word in registry:
        return f"the measure {name!r} cannot be read; {_parameters(registry[word]())}"
    near = [known for known in registry if known.lower() == word.lower()] or difflib.get_close_matches(word, registry)
    hint = f"did you mean {near[0]!r}? " if near else ""
    known = ", ".join(known for known in registry if known.isascii())
    return f"there is no measure {name!r}; {hint}ir_measures knows {known}, most of them with a cutoff, as in nDCG@10"


def _parameters(measure: Any) -> str:
    """The parameters that a measure takes."""
    if not measure.SUPPORTED_PARAMS:
        return "it takes no parameter and no cutoff"
    described = [
        f"{name} ({'needed; ' if info.required else ''}{info.desc or 'see ir_measures'})"
        for name, info in measure.SUPPORTED_PARAMS.items()
    ]
    where = f"; {measure.AT_PARAM} may be written behind @" if measure.AT_PARAM in measure.SUPPORTED_PARAMS else ""
    return f"its parameters are {', '.join(described)}{where}"


def measure_rankings(
    qrels: Mapping[str, Mapping[str, int]],
    rankings: Mapping[str, Sequence[str]],
    measures: Sequence[str] = DEFAULT_MEASURES,
    *,
    ignore_identical_ids: bool = True,
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Compute measures of rankings.

    The evaluation tools get ranks rather than scores, since they would break ties between equal scores by document id,
    each in its own precision, in an order that no user saw. If the scores of a run are to decide, rank it with
    `sightline.eval.trec.trec_order` first. The figures are then those of trec_eval with ``-c``, that is, over all
    judged queries.

    Args:
        qrels: the grades by query id and document id.
        rankings: the document ids by query id, best first. A judged query without a ranking counts as 0.
        measures: the names of measures that ir_measures knows, with their parameters, such as ``nDCG@10``,
            ``AP(rel=2)@100``, ``Judged@10``.
        ignore_identical_ids: whether to drop a document whose id is the query's own (the BEIR convention, for ArguAna
            and Quora).

    Returns:
        The mean of each measure, and the value by query id and measure.

    Raises:
        InputError: if a measure is unknown or cannot be computed here, or there are no judgements.

    Example:
        >>> measure_rankings({"q": {"a": 1}}, {"q": ["b", "a"]}, ["RR@10"])
        ({'RR@10': 0.5}, {'q': {'RR@10': 0.5}})
    """
    if not qrels:
        raise InputError("there are no judgements to measure against")
    if not measures:
        raise InputError("name at least one measure")
    names: dict[Any, list[str]] = {}  # one measure may have several names, such as RR@10 and MRR@10
    for name in measures:
        names.setdefault(_parse(name), []).append(name)
    # Numbers instead of ids: some tools read files, in which ids may have no blanks, and queries must be numbers.
    ids = list(qrels)
    queries = {id: str(place) for place, id in enumerate(ids)}
    documents: dict[str, str] = {}

    def number(document: str) -> str:
        return documents.setdefault(document, f"d{len(documents)}")

    kept = {id: [d for d in ranking if not (ignore_identical_ids and d == id)] for id, ranking in rankings.items()}
    if twice := next((id for id, ranking in kept.items() if len(set(ranking)) < len(ranking)), None):
        raise InputError(f"the ranking of query {twice!r} names a document twice")
    run = {
        queries[id]: {number(document): float(len(ranking) - rank) for rank, document in enumerate(ranking)}
        for id, ranking in kept.items()
        if id in queries
    }
    per_query: dict[str, dict[str, float]] = {id: dict.fromkeys(measures, 0.0) for id in qrels}
    judged = {}
    for id, grades in qrels.items():
        floor = 0 if max(grades.values(), default=0) < 0 else None  # trec_eval never ends where all grades are negative
        judged[queries[id]] = {number(d): grade if floor is None else floor for d, grade in grades.items()}
    for value in _calculated(names, judged, run):
        if not math.isfinite(value.value):
            id = ids[int(value.query_id)]
            raise InputError(f"the measure {names[value.measure][0]!r} is {value.value} for query {id!r}")
        per_query[ids[int(value.query_id)]] |= dict.fromkeys(names[value.measure], float(value.value))
    mean = {name: sum(values[name] for values in per_query.values()) / len(per_query) for name in measures}
    return mean, per_query


def _calculated(
    names: Mapping[Any, Sequence[str]], judged: Mapping[str, Mapping[str, int]], run: Mapping[str, Mapping[str, float]]
) -> list[Any]:
    """What ir_measures finds for every query and measure; ``names`` has the measures."""
    import ir_measures

    try:
        return list(ir_measures.iter_calc(list(names), judged, run))
    except Exception as error:  # its providers fail each in its own way at a parameter or a tool that is missing
        reason = " ".join(str(error).split())
        given = ", ".join(name for several in names.values() for name in several)
        raise InputError(f"cannot compute one of {given}: {reason}") from error
