"""Prepares docstrings for mkdocstrings: names such as `Searcher` become links to where they are documented."""

import re

import griffe

_NAME = re.compile(r"(?<![`\[\w])`([A-Za-z_][\w.]*)`(?![`\]\w])")
_SECTION = re.compile(r"^(Args|Example):$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """An extension of griffe, which reads the package for mkdocstrings."""

    def on_package(self, *, pkg: griffe.Module, **_: object) -> None:
        """Prepare all docstrings of the package."""
        _prepare(pkg)


def _prepare(documented: griffe.Object) -> None:
    if documented.docstring is not None:
        sections = {"Args": "Args:", "Example": "Examples:"}  # griffe's names of them
        if documented.is_class and "__init__" not in documented.all_members and not _is_dataclass(documented):
            sections["Args"] = "Attributes:"  # of named tuples and pydantic's models: griffe knows no __init__
        text = _SECTION.sub(lambda match: sections[match[1]], documented.docstring.value)
        documented.docstring.value = _NAME.sub(lambda match: _linked(documented, match[1]), text)
    for member in documented.members.values():
        if isinstance(member, griffe.Object):  # not an alias
            _prepare(member)


def _is_dataclass(documented: griffe.Object) -> bool:
    if not isinstance(documented, griffe.Class):
        return False
    return any("dataclass" in str(decorator.value) for decorator in documented.decorators)


def _linked(documented: griffe.Object, name: str) -> str:
    first, _, rest = name.partition(".")
    if first == "sightline":
        path = name
    else:
        try:
            path = documented.resolve(first) + (f".{rest}" if rest else "")
        except griffe.NameResolutionError:
            return f"`{name}`"
    # What has no entry of its own stays a name without a link.
    return f'<autoref identifier="{path}" optional>`{name}`</autoref>'
