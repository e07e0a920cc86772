"""Results made up for tests, by the harness's own statistics."""

import dataclasses

from sightline.eval.compare import compare, interval, largest_changes
from sightline.eval.report import Results

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


def results(values, dataset="made", texts=None, bias=None, **more):
    """`Results` of systems whose values by query are given."""
    per_query = {
        name: {f"q{i}": {"nDCG@10": float(v), "RR@10": float(v)} for i, v in enumerate(column)}
        for name, column in values.items()
    }
    pairs = compare(per_query, "nDCG@10", resamples=500)
    means = {name: sum(column) / len(column) for name, column in values.items()}
    summary = {
        "dataset": dataset,
        "split": "test",
        "queries": len(next(iter(values.values()))),
        "depth": 100,
        "positives_added": False,
        "systems": {name: {"nDCG@10": mean, "RR@10": mean} for name, mean in means.items()},
        "intervals": {name: dataclasses.asdict(interval(column, resamples=500)) for name, column in values.items()},
        "comparisons": [dataclasses.asdict(pair) for pair in pairs],
        "changes": [
            {
                "a": pair.a,
                "b": pair.b,
                "queries": [
                    {"id": id, "text": (texts or {}).get(id, f"text of {id}"), "a": a, "b": b}
                    for id, a, b in largest_changes(per_query, pair.a, pair.b, "nDCG@10")
                ],
            }
            for pair in pairs
        ],
        "milliseconds_per_query": {name: 1.0 + i for i, name in enumerate(values)},
        **more,
    }
    return Results(summary, per_query, bias)
