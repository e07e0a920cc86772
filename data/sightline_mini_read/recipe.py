"""The recipe of ``sightline-mini-read``: the default model learns to read documents with the query before them.

    SIGHTLINE_DATA=path/to/collections python -m sightline.data.sightline_mini_read.recipe OUT

Low-rank adapters in all layers, merged into the weights at the end; few lists at a high rate, with what the study found
to gain most of little training. The data is that of ``sightline-mini``.
"""

from __future__ import annotations

from dataclasses import replace

from ...training.config import TrainingConfig
from ..sightline_mini.recipe import SAMPLING, Recipe

__all__ = ["RECIPE"]

RECIPE = Recipe(
    module="sightline.data.sightline_mini_read.recipe",
    options={
        "parts": [],
        "encoder": "lora",
        "prefix": True,
        "precision": "bfloat16",
        "name": "sightline-mini-read",
    },
    config=TrainingConfig(
        steps=600, lists=8, learning_rate=1e-3, precision="bfloat16", evaluate_every=200, save_every=50
    ),
    sampling=replace(SAMPLING, documents=(8, 12), drop_titles=0.2, shuffle_sentences=0.1),
    queries=40,
    depth=30,
)

if __name__ == "__main__":
    RECIPE.main()
