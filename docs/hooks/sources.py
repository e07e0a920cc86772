"""Lays out the package for mkdocstrings, which finds modules by the names of folders.

The repository root is the package, whatever the folder of the clone is called, and it also holds folders that are not
in the package. ``.mkdocs/sightline`` has a link to each part of the package.
"""

import tomllib
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def on_startup(**_: object) -> None:
    """Make the links anew before the documentation is built."""
    links = _ROOT / ".mkdocs" / "sightline"
    links.mkdir(parents=True, exist_ok=True)
    for link in links.iterdir():
        link.unlink()
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {name.split(".")[1] for name in project["tool"]["setuptools"]["packages"] if "." in name}
    for part in (*_ROOT.glob("*.py"), *(_ROOT / package for package in packages)):
        (links / part.name).symlink_to(part)
