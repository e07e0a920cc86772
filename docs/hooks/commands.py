"""Writes the reference of the commands, from the functions that typer makes commands of."""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Typer
from typer.models import ArgumentInfo, OptionInfo

from sightline.cli import app

_PLACE = "<!-- commands -->"
_KINDS = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}
_MARKDOWN = re.compile(r"([*_<>|\[\]])")
_OPTION = re.compile(r"(?<![\w-])(--?[a-zA-Z][\w-]*)")


@dataclasses.dataclass(frozen=True)
class Parameter:
    """An argument or option, as the page shows it.

    Args:
        name: how it is written, such as ``--candidates`` or ``INDEX``; "a, b" for two spellings.
        value: a placeholder or the choices of its value; "" for flags and arguments.
        default: the value if none is given, in words; "" for none.
        help: its description.
        panel: the title of the group of options it stands in; "" for arguments.
        required: whether it must be given.
        repeated: whether it may be given several times.
        variable: the environment variable that sets it, or "".
    """

    name: str
    value: str
    default: str
    help: str
    panel: str
    required: bool
    repeated: bool
    variable: str


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Put the commands into the page that has the place for them."""
    return markdown.replace(_PLACE, commands(app)) if page.file.src_uri == "reference/cli.md" else markdown


def commands(app: Typer) -> str:
    """The commands as Markdown: each with its usage, help, arguments, options and example."""
    assert app.registered_callback is not None and app.registered_callback.callback is not None
    parts = ["## Options of every command", *_lists(parameters(app.registered_callback.callback))]
    panel = None
    for command in app.registered_commands:
        if command.rich_help_panel != panel:
            panel = command.rich_help_panel
            parts.append(f"## {panel}")
        assert command.callback is not None
        taken = parameters(command.callback)
        arguments = " ".join(_usage(one) for one in taken if not one.panel)
        parts += [
            f"### sightline {command.name}",
            f"```text\n{f'sightline {command.name} [OPTIONS] {arguments}'.strip()}\n```",
            _escaped(inspect.cleandoc(command.help or "")),
            *_lists(taken),
        ]
        if command.epilog:
            parts.append(f"```sh\n{command.epilog.removeprefix('Example: ')}\n```")
    return "\n\n".join(parts)


def parameters(command: Callable[..., Any]) -> list[Parameter]:
    """The arguments and options of a function that typer makes a command of, in their order."""
    return list(_parameters(command))


def _parameters(command: Callable[..., Any]) -> Iterator[Parameter]:
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        if typing.get_origin(parameter.annotation) is not Annotated:
            continue  # typer's context
        kind, info = typing.get_args(parameter.annotation)
        argument = isinstance(info, ArgumentInfo)
        value, repeated = _value(kind)
        # In an annotation, typer takes the first name of an option for its default.
        given = tuple(part for part in (info.default, *(info.param_decls or ())) if isinstance(part, str))
        declared = given or ("--" + name.replace("_", "-"),)
        variables = info.envvar or ()
        yield Parameter(
            name=(info.metavar or name).strip(".").upper() if argument else ", ".join(declared),
            value="" if argument else info.metavar or value,
            default=_default(parameter.default, info),
            help=info.help or "",
            panel="" if argument else info.rich_help_panel or "Options",
            required=parameter.default is parameter.empty,
            repeated=repeated,
            variable=variables if isinstance(variables, str) else ", ".join(variables),
        )


def _value(kind: Any) -> tuple[str, bool]:
    """The placeholder of a type's values, and whether there may be several."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    if typing.get_origin(kind) is list:
        return _value(typing.get_args(kind)[0])[0], True
    if typing.get_origin(kind) is Literal:
        return "|".join(typing.get_args(kind)), False
    return "" if kind is bool else _KINDS[kind], False


def _default(default: Any, info: OptionInfo | ArgumentInfo) -> str:
    if isinstance(info.show_default, str):
        return _escaped(info.show_default)
    if not info.show_default or default in (inspect.Parameter.empty, None, "") or default is False:
        return ""
    return "on" if default is True else f"`{default}`"


def _lists(taken: list[Parameter]) -> Iterator[str]:
    """A list of the arguments, and one of each panel's options, each under its title."""
    for panel in dict.fromkeys(one.panel for one in taken):
        lines = [f"- {_name(one)} – {_help(one)}" for one in taken if one.panel == panel]
        yield "\n".join([f"**{panel or 'Arguments'}**\n", *lines])


def _usage(argument: Parameter) -> str:
    name = argument.name + ("..." if argument.repeated else "")
    return name if argument.required else f"[{name}]"


def _name(one: Parameter) -> str:
    value = f" {one.value}" if one.value else ""
    return ", ".join(f"`{name}{value}`" for name in one.name.replace("/", ", ").split(", "))


def _help(one: Parameter) -> str:
    parts = [_escaped(one.help)]
    if one.variable:
        parts.append(f"You can also set `{one.variable}` in the environment.")
    if one.required and one.panel:
        parts.append("Required.")
    if one.default:
        parts.append(f"Default: {one.default}.")
    return " ".join(parts)


def _escaped(text: str) -> str:
    """A help text as Markdown, with options as code. Typer reads help as rich's markup, where brackets are escaped."""
    parts = _OPTION.split(text.replace("\\[", "["))
    return "".join(f"`{part}`" if place % 2 else _MARKDOWN.sub(r"\\\1", part) for place, part in enumerate(parts))
