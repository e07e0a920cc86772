"""A tiny decoder that really retrieves, trained by `train`: for tests, and for trying decoder layouts without a hub."""

from __future__ import annotations

from pathlib import Path

__all__ = ["TINY_DECODER"]

TINY_DECODER = Path(__file__).parent
"""The folder to load it from, as ``hf:`` and this path."""
