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
    ["bf16", 128, 4, True, True],  # Mistral-7B
    ["bf16", 128, 2, True, False],  # Qwen3-0.6B
    ["bf16", 32, 1, False, False],  # MiniLM
]
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
    [(90, CASES + MORE), (80, CASES), (86, CASES[:1]), (100, CASES[:2])],
    ids=lambda x: str(x)[:3],
)
def test_compiles(capability, cases):
    rows = compiled(capability, cases)
    assert len(rows) == 6 * len(cases)
    for row in rows:
        assert row["shared"] <= SHARED[capability], row
        assert not row["atomics"], f"results would depend on the order of threads: {row}"
        if row["dtype"] == "fp32":  # exact products: no tensor cores; a few bytes are calls, not spills
            assert row["stack"] <= 16 and not row["mma"], row
            continue
        # With a window, the widest heads spill 16 bytes a thread on sm86.
        assert row["stack"] <= (16 if capability == 86 and row.get("window") else 0), f"spills: {row}"
        assert row["mma"], row
        if capability == 90 and row["kernel"] == "attention_forward":
            assert row["wgmma"], row
