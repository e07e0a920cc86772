"""Return freed memory to the system.

Reading lists of many lengths fragments the heap of the C library. Without this, a server's memory grew by some hundred
megabytes over thousands of requests, all of it free and none of it returned.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys

__all__ = ["give_back", "keep_giving_back"]


def give_back() -> bool:
    """Return free memory by glibc's ``malloc_trim``. False if the C library has no such function."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is None:
        return False
    trim(ctypes.c_size_t(0))
    return True


async def keep_giving_back(seconds: float = 30.0) -> None:
    """Call `give_back` at regular intervals, in a worker thread, until cancelled."""
    while await asyncio.to_thread(give_back):
        await asyncio.sleep(seconds)
