"""Results made up for tests, by the harness's own statistics."""

from sightline.eval.biases import parse_bias
from sightline.eval.provenance import Provenance
from sightline.eval.results import Results
from sightline.eval.significance import compare, interval, largest_changes
from sightline.eval.summary import Change, Changes, Cost, Summary
from sightline.parsing import as_type

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    '=HYPERLINK("http://x")',
    r"\input{/etc/passwd} & 50% of $x_1$ \\",
    "a,b;c\"d'e",
    "{{ 7 * 7 }}{% for x in y %}",
    "-1+1",
    "ünïcödé 漢字",
]


def results(values, dataset="made", texts=None, bias=None, cost=None, **more):
    """`Results` of systems whose values by query are given; ``more`` is how they were made."""
    per_query = {
        name: {f"q{i}": {"nDCG@10": float(v), "RR@10": float(v)} for i, v in enumerate(column)}
        for name, column in values.items()
    }
    pairs = compare(per_query, "nDCG@10", resamples=500)
    means = {name: sum(column) / len(column) for name, column in values.items()}
    summary = Summary(
        dataset=dataset,
        split="test",
        queries=len(next(iter(values.values()))),
        candidates=100,
        measures=["nDCG@10", "RR@10"],
        systems={name: {"nDCG@10": mean, "RR@10": mean} for name, mean in means.items()},
        intervals={name: interval(column, resamples=500) for name, column in values.items()},
        comparisons=pairs,
        changes=[
            Changes(
                pair.a,
                pair.b,
                [
                    Change(id, (texts or {}).get(id, f"text of {id}"), a, b)
                    for id, a, b in largest_changes(per_query, pair.a, pair.b, "nDCG@10")
                ],
            )
            for pair in pairs
        ],
        milliseconds_per_query={name: 1.0 + i for i, name in enumerate(values)},
        cost=None if cost is None else as_type(cost, Cost),
    )
    made = as_type(more, Provenance)
    return Results(summary, made, per_query, bias=None if bias is None else parse_bias(bias))
