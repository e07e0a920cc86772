"""The kernels compile for GPUs that are not here: tensor cores are used, nothing spills, shared memory suffices."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

# Bytes of shared memory that a block may use: CUDA C++ Programming Guide, "Technical Specifications".
SHARED = {80: 163 * 1024, 86: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024}
CASES = [
    # dtype, dimension and group of the heads, causal, window
    ["bf16", 128, 4, True, False],  # Mistral-7B
    ["bf16", 128, 2, True, False],  # Qwen3-0.6B
    ["bf16", 32, 1, False, False],  # MiniLM
]
WINDOWED = [["bf16", 128, 4, True, True]]  # Mistral-7B-v0.1
MORE = [
    ["fp16", 64, 4, True, False],
    ["bf16", 80, 1, True, False],
    ["bf16", 256, 4, True, True],  # Gemma 3 270M
    ["fp32", 128, 4, True, False],
]


def compiled(capability, cases):
    """Rows of compile_kernels.py, or a skip if the installed Triton does not know the architecture."""
    script = Path(__file__).with_name("compile_kernels.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(script), str(capability), json.dumps(cases)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    if done.returncode and "is not defined for option 'gpu-name'" in done.stderr:
        pytest.skip(f"the installed Triton does not know sm_{capability}")
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("capability", "cases"),
    [(90, CASES + MORE), (80, CASES), (86, WINDOWED), (100, CASES[:2])],
    ids=lambda x: str(x)[:3],
)
def test_compiles(capability, cases):
    rows = compiled(capability, cases)
    with_boxes = sum(capability == 90 and case[1:3] == [128, 4] and case[0] != "fp32" and not case[4] for case in cases)
    paged = 3 * sum(capability == 90 and case[1] == 128 and case[0] != "fp32" for case in cases)
    assert len(rows) == 8 * len(cases) + with_boxes + paged
    assert sum(row["tma"] for row in rows) == with_boxes and sum(row["paged"] for row in rows) == paged
    for row in rows:
        assert row["shared"] <= SHARED[capability], row
        assert not row["atomics"], f"results would depend on the order of threads: {row}"
        if row["kernel"] == "attention_combine":
            assert row["pipelined"], f"each part would be waited for: {row}"
            assert not row["stack"], row
            continue
        if row["dtype"] == "fp32":  # exact products: no tensor cores; a few bytes are calls, not spills
            assert row["stack"] <= 16 and not row["mma"], row
            continue
        assert row["mma"], row
        if row["tma"]:  # nothing spills, and the full tiles' turn of the loop is shorter
            assert row["wgmma"] and row["stack"] == 0 and row["loop"]["full"] <= 380, row
            continue
        if capability == 90 and row["kernel"] == "attention_forward":
            check_hopper(row)
            continue
        # With a window, the widest heads spill 16 bytes a thread on sm86.
        assert row["stack"] <= (16 if capability == 86 and row.get("window") else 0), f"spills: {row}"


def check_hopper(row):
    """Two programs on a multiprocessor, so that one loads and stores while the other multiplies; and a lean loop."""
    loop, wide = row["loop"], row["D"] > 128
    assert row["wgmma"], row
    assert row["resident"] >= (1 if wide else 2), row
    if row["tile"][4] is None:
        assert row["stack"] == 0, f"spills: {row}"
    # At the limit of 128 registers a value or two live in local memory, which the first-level cache answers; a few more
    # where each key has a place of its own.
    assert loop["local_full"] <= (12 if row["paged"] else 2 if row["window"] else 1), row
    assert loop["local_edge"] <= (14 if row["paged"] else 3) and (row["pipelined"] or not row["paged"]), row
    if not row["window"] and not wide:  # windows are masked on every tile
        rows, _, warps, *_ = row["tile"]
        of_sixteen_rows = loop["full"] * 16 * warps / rows
        assert of_sixteen_rows <= (480 if row["paged"] else 450) and loop["edge"] - loop["full"] >= 40, row
