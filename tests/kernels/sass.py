"""What the assembler made of a kernel, read from its listing: registers, and what its main loop costs."""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import triton

_REGISTERS, _SHARED = (
    65_536,
    233_472,
)  # of a multiprocessor of an H100; a program takes a kilobyte of shared memory more
_LINE = re.compile(r"/\*([0-9a-f]{4,6})\*/\s+(.+?);")
_JUMP = re.compile(r"\bBRA\b.*\b0x([0-9a-f]+)$")


class Loop(NamedTuple):
    """One turn of the loop with the most matrix products.

    Args:
        full: instructions of a warp, without the part that a jump passes over: masks.
        edge: instructions, with that part.
        local_full: loads from local memory and stores to it among ``full``: registers that did not suffice.
        local_edge: among ``edge``.
    """

    full: int
    edge: int
    local_full: int
    local_edge: int


def dumped(built, option):
    """What cuobjdump says of a compiled kernel."""
    tool = next(Path(triton.__file__).parent.rglob("cuobjdump"))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        return subprocess.run([tool, option, file.name], capture_output=True, text=True, check=True).stdout


def usage(built):
    """Registers and stack bytes per thread, as the assembler counted them."""
    match = re.search(r"REG:(\d+) STACK:(\d+)", dumped(built, "--dump-resource-usage"))
    return int(match[1]), int(match[2])


def resident(registers, shared, warps):
    """How many programs share a multiprocessor of an H100."""
    per_warp = -(-registers * 32 // 256) * 256  # registers are given to warps by the 256
    # A program takes a kilobyte of shared memory more than it asks for.
    return min(_REGISTERS // (per_warp * warps), _SHARED // (shared + 1024), 64 // warps)


def main_loop(built):
    """See `Loop`."""
    lines = [(int(at, 16), text) for at, text in _LINE.findall(dumped(built, "--dump-sass"))]
    jumps = [(at, int(match[1], 16)) for at, text in lines if (match := _JUMP.search(text.strip()))]

    def products(jump):
        return sum("MMA" in text for at, text in lines if jump[1] <= at <= jump[0])

    back = [(at, to) for at, to in jumps if to < at]
    end, start = max(back, key=lambda jump: (products(jump), jump[1] - jump[0]))
    passed = [(at, to) for at, to in jumps if start <= at < to <= end]
    body = [(at, text) for at, text in lines if start <= at <= end]
    full = [(at, text) for at, text in body if not any(a < at < b for a, b in passed)]
    local = [sum("LDL" in text or "STL" in text for _, text in part) for part in (full, body)]
    return Loop(len(full), len(body), *local)
