"""Rerank a run of any first stage: ``python rerank_run.py DATA RUN.trec OUT.trec``.

DATA is a collection in BEIR layout. The command line does the same: sightline rerank --data DATA --run RUN --out OUT
"""

import sys

import ir_measures

from sightline import load_reranker
from sightline.eval import load_dataset, load_run, rerank_run, save_run


def main(data, run, out):
    dataset, first_stage = load_dataset(data), load_run(run)
    reranked = rerank_run(dataset, first_stage, load_reranker("minilm"), candidates=100)
    save_run(out, reranked, "minilm", dataset)
    measure = ir_measures.parse_measure("nDCG@10")
    for name, scores in {"given": first_stage, "reranked": reranked}.items():
        print(f"{name}: {measure} {ir_measures.calc_aggregate([measure], dataset.qrels, scores)[measure]:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
