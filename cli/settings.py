"""Options of a command that come from dataclasses of settings: their defaults, ranges, choices and help stand there."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar

import typer

from ..settings import Setting, settings_of

__all__ = ["SettingsOptions", "takes_settings"]

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class SettingsOptions(Generic[T]):
    """A dataclass of settings as options: each field is one, under its own name.

    Args:
        kind: the dataclass whose fields become options.
        panel: the panel of the help that the options stand in.
        panels: the panels of fields that stand in another one.
        left_out: fields that are no options.
        names: the ways in which options are written on the command line, by field, if not just by the field's name,
            such as ``("--learning-rate", "--lr")``.
        shown: the defaults that the help shows, by field, if the code finds them later.
    """

    kind: type[T]
    panel: str
    panels: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shown: Mapping[str, str] = field(default_factory=dict)

    def build(self, values: MutableMapping[str, Any], /, **left_out: Any) -> T:
        """Make the settings, and take their options out of what the command was given.

        Args:
            values: the values by name, of these options and of others; those of these options are removed from it.
            left_out: values of fields that are no options.

        Raises:
            InputError: if a value is not one that the field can have.
        """
        return self.kind(**{setting.name: values.pop(setting.name) for setting in self._settings()}, **left_out)

    def parameters(self) -> list[inspect.Parameter]:
        """The options, as parameters of a function that Typer makes a command of."""
        return [self._parameter(setting) for setting in self._settings()]

    def _settings(self) -> list[Setting]:
        return [setting for setting in settings_of(self.kind) if setting.name not in self.left_out]

    def _parameter(self, setting: Setting) -> inspect.Parameter:
        kind, default = setting.type, setting.default
        more: dict[str, Any] = {}
        if kind == tuple[int, int]:
            kind, default = str, "{}-{}".format(*default)
            more = {"parser": _span, "metavar": "LOW-HIGH"}
        if setting.range is not None:
            more = {"min": setting.range.low, "max": setting.range.high}
        option = typer.Option(
            # Names are always given, so that flags have no --no-.
            *self.names.get(setting.name, ("--" + setting.name.replace("_", "-"),)),
            help=setting.help.replace("``", ""),
            rich_help_panel=self.panels.get(setting.name, self.panel),
            show_default=self.shown.get(setting.name, True),
            **more,
        )
        return inspect.Parameter(
            setting.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if default is dataclasses.MISSING else default,
            annotation=Annotated[kind | None if setting.optional else kind, option],
        )


def takes_settings(*groups: SettingsOptions[Any]) -> Callable[[Function], Function]:
    """Decorate a command: its ``**settings`` become the options of these dataclasses, for `SettingsOptions.build`."""

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function, eval_str=True)
        *own, rest = signature.parameters.values()
        if rest.kind is not rest.VAR_KEYWORD:
            raise TypeError(f"{function.__name__} must end in **settings")
        parameters = [*own, *(parameter for group in groups for parameter in group.parameters())]
        function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return function

    return decorate


def _span(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    try:
        return int(low), int(high or low)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not LOW-HIGH, such as 10-200.") from None
