"""The grammar of names: which systems, rerankers and models there are, and how they are written."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

__all__ = ["LAYOUTS", "SHIPPED", "layout_names", "looks_local"]

_DATA = resources.files(__package__) / "data"
LAYOUTS = _DATA / "layouts"
SHIPPED = {"sightline-mini": Path(str(_DATA / "sightline_mini"))}


def layout_names() -> list[str]:
    """Names of the layouts that ship with Sightline."""
    return sorted(file.name.removesuffix(".yaml") for file in LAYOUTS.iterdir() if file.name.endswith(".yaml"))


def looks_local(name: str) -> bool:
    """Whether a model's name can only be a path: the hub's have one slash at most, and begin with a letter or digit."""
    return name.startswith(("/", ".", "~")) or name.endswith("/") or name.count("/") > 1 or "\\" in name
