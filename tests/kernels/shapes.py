"""Awkward layouts, and packed tensors for them."""

import random

import torch

from sightline.kernels import Context, Packing

_RAGGED = random.Random(7)

# 64 and 128 are the tile sizes of the static tables.
CONTEXTS = {
    "one token each": [Context([1], [1], 1)],
    "around a tile": [Context([1, 63, 64, 65, 2], [3], 5)],
    "around two tiles": [Context([127, 128, 129], [33], 64)],
    "no instruction": [Context([17, 40], [9])],
    "one document": [Context([150], [4], 20)],
    "empty documents": [Context([0, 5, 0, 0, 12, 0], [2], 3)],
    "no documents": [Context([], [5], 4)],
    "instruction only": [Context([], [], 70)],
    "no query": [Context([30, 7], [], 6)],
    "several queries": [Context([20, 33, 9], [7, 1, 20], 10)],
    "several contexts": [
        Context([8, 70], [5], 3),
        Context([1], [1]),
        Context([0], [2], 1),
        Context([12] * 9, [4, 6], 66),
    ],
    "ragged": [Context([_RAGGED.randint(1, 90) for _ in range(9)], [24], 37)],
}
TINY = [Context([1 + i % 3 for i in range(500)], [2], 4)]


def layout_of(contexts, causal=True, device="cpu", **options):
    return Packing(contexts, causal=causal, device=device, **options)


def restarting(contexts):
    """Positions where every document counts from the end of the instruction, and queries stand 20 behind that."""
    out = []
    for documents, queries, instruction in contexts:
        out += range(instruction)
        for tokens in documents:
            out += range(instruction, instruction + tokens)
        for tokens in queries:
            out += range(instruction + 20, instruction + 20 + tokens)
    return out


# Name of the contexts, window, whether positions restart. In "restarting" windows of 17 tokens hide whole documents.
WINDOWS = [
    ("one token each", 1, False),
    ("around a tile", 3, False),
    ("around two tiles", 100, False),
    ("around two tiles", 100, True),
    ("several queries", 17, True),
    ("several contexts", 17, False),
    ("several contexts", 40, True),
    ("instruction only", 5, False),
    ("ragged", 1000, True),
]


def windowed(name, window, restart, device="cpu"):
    contexts = CONTEXTS[name]
    positions = restarting(contexts) if restart else None
    return layout_of(contexts, device=device, positions=positions, window=window)


def tensors(layout, *, kv_heads=2, group=2, dim=16, dtype=torch.float32, seed=0, spread=1.0, device="cpu"):
    """q, k and v as strided views of one fused projection, as models give them."""
    generator = torch.Generator().manual_seed(seed)
    heads = kv_heads * (group + 2)
    fused = (spread * torch.randn(layout.tokens, heads, dim, generator=generator)).to(dtype).to(device)
    return fused.split([kv_heads * group, kv_heads, kv_heads], dim=1)


def tolerance(dtype):
    """(relative, absolute) error to allow against float64: a few units in the last place of the dtype."""
    unit = torch.finfo(dtype).eps
    return {"rtol": 4 * unit, "atol": 4 * unit if dtype != torch.float32 else 40 * unit}
