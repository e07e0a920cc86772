"""Compiles the kernels for GPUs that are not here, and prints what came out as JSON lines. Run by test_compile.py.

In a process of its own, because Triton decides at import whether kernels are compiled or interpreted.
"""

import json
import re
import sys

import sass  # beside this file
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sightline.kernels import tuning
from sightline.kernels.attention import triton as attention
from sightline.kernels.lse import triton as lse
from sightline.kernels.packed import padded_dim

_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
_FLOAT32 = {"LSE", "PART", "PART_LSE", "DELTA", "D_LSE", "PART_K", "PART_V"}
_INT32 = {"TILES", "SPLITS", "SPANS", "PARTS", "TOKENS", "POSITIONS"}
_OTHER = {"BASE": "fp64", "HEADS": "i64", "PLACES": "i64", "KEY_PLACES": "i64", "VALUE_PLACES": "i64"}
_IN_ORDER = {"PLACES": None, "KEY_PLACES": None, "VALUE_PLACES": None}
# Strides are multiples of 16 in practice; so Triton specialises on that when it launches.
_ALIGNED = re.compile(r"(q|k|v|o|d|dq|dk|dl)_(token|head|row)$")


def build(kernel, dtype, capability, constants, tile):
    signature, attributes, values = {}, {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name], values[(i,)] = "constexpr", constants[name]
        elif constants.get("TMA") and name in ("K", "V"):
            signature[name] = f"tensordesc<{_NAMES[dtype]}[{tile.keys},1,{constants['D']}]>"
        elif name.isupper() or name.startswith("D_"):
            kind = "fp32" if name in _FLOAT32 else "i32" if name in _INT32 else _OTHER.get(name, _NAMES[dtype])
            signature[name], attributes[(i,)] = f"*{kind}", [["tt.divisibility", 16]]
        elif name in ("scale", "scale2"):
            signature[name] = "fp32"
        else:
            signature[name] = "i32"
            if _ALIGNED.match(name):
                attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=attributes)
    target = GPUTarget("cuda", capability, 32)
    options = {"num_warps": tile.warps, "num_stages": tile.stages, "maxnreg": tile.registers}
    return triton.compile(source, target=target, options=options)


def cases(dtype, d, group, capability, causal, window):
    dim = padded_dim(d)
    shared = {"G": group, "D": d, "BD": dim, "CAUSAL": causal, "WINDOW": window, "UPCAST": False, **_IN_ORDER}
    tiles = attention._tiles(torch.device("cuda"), dtype, dim, group)
    for kernel, tile in zip((attention._forward, attention._backward_q, attention._backward_kv), tiles, strict=True):
        tile = tile.holding(group)
        constants = {**shared, "ROWS": tile.rows, "KEYS": tile.keys, "TMA": False}
        yield kernel, {name: value for name, value in constants.items() if name in kernel.arg_names}, tile
    forward = tiles.forward.holding(group)
    if capability == 90 and group == 4 and d == dim == 128 and dtype != torch.float32 and not window:
        tile = forward._replace(stages=3, registers=None)  # at 128 registers, boxes spill in the loop
        yield attention._forward, {**shared, "ROWS": tile.rows, "KEYS": tile.keys, "TMA": True}, tile
    yield attention._combine, {**shared, "ROWS": forward.rows, "CHUNK": 16, "SOFTMAX": True}, tuning.Tile(0, 0, 4, 3)
    back = lse._backward_tile(dtype, group)
    for kernel, tile in (
        (lse._forward, lse._tile(dtype, dim, group)),
        (lse._backward_q, back),
        (lse._backward_k, back),
        (lse._token_mass, lse._mass_tile(dtype)),
    ):
        some = {"CAUSAL": False, "LARGEST": False, "APART": False, "ROWS": tile.rows, "KEYS": tile.keys}
        yield kernel, {name: value for name, value in {**shared, **some}.items() if name in kernel.arg_names}, tile
    if capability == 90 and d == 128 and dtype != torch.float32:
        for kernel, tile in (
            (attention._forward, attention._over_pages(forward)),
            (lse._forward, lse._tile(dtype, dim, group)),
            (lse._token_mass, lse._mass_tile(dtype)),
        ):
            constants = {**shared, **some, "TMA": False, "CAUSAL": causal, "ROWS": tile.rows, "KEYS": tile.keys}
            yield kernel, {name: value for name, value in constants.items() if name not in _IN_ORDER}, tile


def main(capability, variants):
    tuning.arch = attention.arch = lambda device: {80: "sm80", 86: "sm86", 90: "sm90", 100: "sm100"}[capability]
    for name, d, group, causal, window in variants:
        dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[name]
        for kernel, constants, tile in cases(dtype, d, group, capability, causal, window):
            built = build(kernel, dtype, capability, constants, tile)
            registers, stack = sass.usage(built)
            where = f"{kernel.__module__.split('.')[-2]}{kernel.__name__}"
            print(
                json.dumps(
                    {
                        "kernel": where, "dtype": name, "D": d, "G": group, "causal": causal, "window": window,
                        "paged": any(name in kernel.arg_names and name not in constants for name in _IN_ORDER),
                        "tile": tile, "registers": registers, "stack": stack, "shared": built.metadata.shared,
                        "wgmma": "wgmma" in built.asm["ptx"], "mma": "mma" in built.asm["ptx"],
                        "resident": sass.resident(registers, built.metadata.shared, tile.warps),
                        "tma": "cp.async.bulk.tensor" in built.asm["ptx"],
                        "pipelined": "cp.async" in built.asm["ptx"],
                        "loop": sass.main_loop(built)._asdict() if capability == 90 and "_forward" in where else None,
                        "atomics": bool(re.search(r"\b(atom|red)\.", built.asm["ptx"])),
                    }
                ),
                flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
