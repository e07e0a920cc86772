"""How commands are run: standard streams take any text, paths are checked first, and errors become one message."""

from __future__ import annotations

import contextlib
import difflib
import errno
import json
import logging
import os
import re
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text
from typer.core import TyperCommand

from ..errors import (
    BackendError,
    BrokenExtraError,
    DataError,
    IndexStoreError,
    InputError,
    MissingExtraError,
    ModelError,
    SightlineError,
)
from ..names import DECODERS, PREFIXES, StoreName
from ..wording import did_you_mean, quoted
from .console import errors, visible

if TYPE_CHECKING:
    from ..eval.dataset import Dataset

__all__ = [
    "Command",
    "check_path",
    "configure_logging",
    "equal_datasets",
    "flush_streams",
    "go_offline_where_the_hub_is_away",
    "open_streams",
]

_EXIT_CODES = (
    ((MissingExtraError, BrokenExtraError, ModelError, BackendError), 5),
    ((IndexStoreError,), 4),
    ((DataError,), 3),
    ((InputError,), 2),
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
logger = logging.getLogger(__name__)

_SECONDS = 3.0  # the hub must accept a connection in this time
_NAMED_FILES = ("run", "dev_run")  # parameters that are NAME=FILE where they are strings
_WRITTEN = ("out", "work")  # parameters whose paths need not exist
_OF_THE_HUB = re.compile(rf"\b(?:{'|'.join(PREFIXES)}):([^\s,#]+)")
_NAME = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b")
_FIRST_WORD = re.compile(r"^[a-z]+\b(?= (?:must|is|are|of)\b)")


class Command(TyperCommand):
    """A command that checks the paths it is given before it runs, and ends in one message where it fails."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, and suggest the choice that may have been meant."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            if match := re.search(r"'([^']*)' is not one of (.*)", error.message):
                meant = did_you_mean(match[1], re.findall(r"'([^']*)'", match[2]))
                error.message = error.message.rstrip(".") + (meant or ".")
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            typer.Exit: with the code of what went wrong, after the message is printed.
        """
        try:
            for name, value in _single_values(ctx.params):
                if name in _NAMED_FILES and isinstance(value, str):
                    check_path(Path(value.partition("=")[2]), _option_names(ctx)[name])
                elif (path := _path(name, value)) is not None:
                    check_path(path, _option_names(ctx).get(name, name))
            if _may_ask_the_hub(ctx):
                go_offline_where_the_hub_is_away()
            return super().invoke(ctx)
        except SightlineError as error:
            code = next((code for kinds, code in _EXIT_CODES if isinstance(error, kinds)), 1)
            _tell(ctx, type(error).__name__, _in_options(ctx, str(error)) + _near_path(ctx, str(error)))
            raise typer.Exit(code) from error
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.obj and ctx.obj.get("debug"):
                raise
            if isinstance(error, OSError) and error.filename is not None and error.strerror:
                _tell(ctx, "DataError", f"{os.fsdecode(error.filename)}: {error.strerror}")
                raise typer.Exit(3) from error
            if isinstance(error, OSError) and error.errno in _FULL:
                _tell(ctx, "OSError", f"the output, or a temporary file, cannot be written: {error.strerror}")
                raise typer.Exit(1) from error
            reason = " ".join(str(error).split())[:300]
            _tell(
                ctx,
                type(error).__name__,
                f"unexpected {type(error).__name__}: {reason}; this is a fault in Sightline. Please report it with the "
                "traceback, which SIGHTLINE_DEBUG=1 shows",
            )
            raise typer.Exit(1) from error


def check_path(path: Path, name: str) -> None:
    """Refuse a path that the system cannot have, whether or not there is a file.

    Args:
        path: the path, as it was given.
        name: the option or argument, for the message.

    Raises:
        InputError: if the path is too long, holds a NUL character, or goes in circles.
    """
    try:
        path.stat()
    except ValueError:
        raise InputError(f"{name}: a path cannot contain a NUL character: {quoted(str(path))}") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
            raise InputError(
                f"{name}: the path is too long for this system: {quoted(str(path))}, of {len(os.fsencode(path))} "
                f"bytes, its longest part of {longest} bytes; choose a shorter path"
            ) from None
        if error.errno == errno.ELOOP:
            raise InputError(f"{name}: the symbolic links of {quoted(str(path))} form a loop") from None


def equal_datasets(texts: Sequence[str], split: str, max_queries: int | None, name: str) -> list[Dataset]:
    """Load collections of which each weighs the same.

    Args:
        texts: DATASET or DATASET:SPLIT each.
        split: the split of those that name none.
        max_queries: the number of queries to take of each collection, the first ones. If None, all.
        name: the option or argument, for messages.

    Raises:
        InputError: if a path cannot be one, or a weight is given.
        DataError: if a collection cannot be read.
    """
    from ..eval.loading import load_dataset
    from ..training.examples import Source

    sources = [Source.parse(text, split) for text in texts]
    for source in sources:
        check_path(Path(source.path), name)
        if source.weight != 1:
            raise InputError(f"{source.path}: all collections count alike here; leave the @ and the weight out")
    return [load_dataset(source.path, source.split, max_queries=max_queries) for source in sources]


def open_streams() -> None:
    """Make the standard streams usable: a closed one discards, and characters it cannot encode are escaped."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started the process; its number must not go to another file
            with contextlib.suppress(OSError):
                while os.open(os.devnull, os.O_RDWR) < number:
                    pass
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115, PTH123
        elif number and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def flush_streams() -> None:
    """Flush what was printed. Where the reader has gone away, as ``head`` does, that is no error."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (BrokenPipeError, ValueError):  # ValueError: it is closed
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def configure_logging() -> None:
    """Warnings go to stderr, each once, and other libraries' progress bars stay away from our own."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # The hub's client prints its warnings itself. Each retry of each file is a warning of its own: the error that
    # follows says the same once.
    logging.getLogger("huggingface_hub").propagate = False
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)
    # Transformers obeys this too; HF_HUB_DISABLE_PROGRESS_BARS=0 shows the bars of both.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _may_ask_the_hub(ctx: Any) -> bool:
    if ctx.info_name == "heads":
        models = [ctx.params["model"].removeprefix("hf:")]
    else:
        models = _OF_THE_HUB.findall(" ".join(value for value in ctx.params.values() if isinstance(value, str)))
    return any(model not in DECODERS and not Path(model).exists() for model in models)


def go_offline_where_the_hub_is_away() -> None:
    """Without this, the hub's client tries each file of a model for half a minute."""
    if "HF_HUB_OFFLINE" in os.environ or urllib.request.getproxies():
        return
    address = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname or "", port), timeout=_SECONDS).close()
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be reached (%s); only models on this machine are used", address.hostname, error)
        os.environ["HF_HUB_OFFLINE"] = "1"


def _tell(ctx: Any, kind: str, message: str) -> None:
    if ctx.params.get("json"):
        sys.stderr.write(json.dumps({"error": kind, "message": message}) + "\n")
    else:
        errors.print(Text.assemble(("error:", "bold red"), " ", visible(message)), soft_wrap=True)


def _option_names(ctx: Any) -> dict[str, str]:
    """What the user types for each parameter: its longest option, or the name of an argument."""
    return {
        param.name: max(param.opts, key=len) if param.param_type_name == "option" else param.name.upper()
        for param in ctx.command.params
    }


def _in_options(ctx: Any, message: str) -> str:
    """A library's message with the names of this command's options in the place of its parameters'."""
    known: Mapping[str, str] = {name: typed for name, typed in _option_names(ctx).items() if typed.startswith("--")}

    def option(match: re.Match[str]) -> str:
        # What follows dashes, dots, slashes or quotes is an option already, or a name of the user's.
        before = message[match.start() - 1 : match.start()]
        return match[0] if before in tuple("-./'\"") else known.get(match[0], match[0])

    return _NAME.sub(option, _FIRST_WORD.sub(lambda match: known.get(match[0], match[0]), message))


def _near_path(ctx: Any, message: str) -> str:
    """A suggestion, where the message is about a path that does not exist and one beside it has a similar name."""
    if "did you mean" in message:
        return ""
    for name, value in _single_values(ctx.params):
        with contextlib.suppress(OSError, SightlineError):
            path = _path(name, value)
            if path is None or name in _WRITTEN or str(path) not in message or path.exists():
                continue
            names = [neighbour.name for neighbour in path.parent.iterdir()]
            if close := difflib.get_close_matches(path.name, names, n=1, cutoff=0.7):
                return f"; did you mean {str(path.parent / close[0])!r}?"
    return ""


def _path(name: str, value: Any) -> Path | None:
    """The path that a parameter is, an index in a folder being one."""
    if name == "index" and isinstance(value, str):
        store = StoreName.parse(value)
        return None if store.kind == "qdrant" else Path(store.place)
    return value if isinstance(value, Path) else None


def _single_values(params: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Parameters by name, each of several values under the name on its own."""
    for name, value in params.items():
        for single in value if isinstance(value, list | tuple) else [value]:
            yield name, single
