"""Options that come from dataclasses: the dataclass is the one place of each default, range, choice and help."""

import dataclasses
import inspect
import re
from typing import Annotated, Literal, get_args, get_origin

import pytest
import typer
from typer.models import OptionInfo
from typer.testing import CliRunner

from sightline.cli import app
from sightline.cli.indexing import FileOptions
from sightline.cli.settings import SettingsOptions, takes_settings
from sightline.serve.limits import ConnectionLimits, Limits
from sightline.settings import Range, check_settings, settings_of
from sightline.training.config import Mining, Objective, Sampling, TrainingConfig

# Fields that are no options of their own: other arguments give their values.
GIVEN_OTHERWISE = {"weights", "kind", "stalled_seconds", "proxies"}
TAKEN = [
    ("train", TrainingConfig),
    ("train", Sampling),
    ("train", Objective),
    ("mine", Mining),
    ("serve", Limits),
    ("serve", ConnectionLimits),
    ("index", FileOptions),
    ("add", FileOptions),
]


def flat(text):
    """The words of a help page without its boxes."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def options_of(command):
    """By name, the type, the default and what Typer is told of each option of a command of ours."""
    [function] = [registered.callback for registered in app.registered_commands if registered.name == command]
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    parts_by_name = {each.name: (*get_args(each.annotation)[:2], each.default) for each in parameters}
    return {name: parts for name, parts in parts_by_name.items() if isinstance(parts[1], OptionInfo)}


@pytest.mark.parametrize(("command", "kind"), TAKEN)
def test_every_field_is_an_option_with_the_default_range_choices_and_help_of_the_dataclass(command, kind):
    options = options_of(command)
    for field, setting in zip(dataclasses.fields(kind), settings_of(kind), strict=True):
        if field.name in GIVEN_OTHERWISE:
            continue
        annotation, option, default = options[field.name]
        assert default == ("{}-{}".format(*field.default) if isinstance(field.default, tuple) else field.default)
        assert option.help and option.help == setting.help.replace("``", "")
        if setting.range is not None:
            assert (option.min, option.max) == (setting.range.low, setting.range.high)
        assert setting.choices == (get_args(annotation) if get_origin(annotation) is Literal else ())


@pytest.mark.parametrize("kind", [TrainingConfig, Sampling, Objective, Mining, Limits, ConnectionLimits])
def test_the_docstring_tells_of_every_field_and_of_no_other(kind):
    described = {setting.name for setting in settings_of(kind) if setting.help}
    assert described == {field.name for field in dataclasses.fields(kind)}
    assert all(re.fullmatch(r"[A-Z].*\.", setting.help) for setting in settings_of(kind))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Walk:
    """A walk.

    Args:
        steps: How many ``steps``.
        pace: How fast.
        gait: How to go.
        towns: Fewest and most towns.
        singing: Sing on the way.
    """

    steps: Annotated[int | None, Range(1, 9)] = None
    pace: Annotated[float, Range(above=0)] = 1.5
    gait: Literal["walk", "run"] = "walk"
    towns: tuple[int, int] = (2, 3)
    singing: bool = False

    def __post_init__(self):
        check_settings(self)


def command_of(kind, **options):
    """An application with one command that tells what it makes of its options."""
    walking = SettingsOptions(kind=kind, panel="Walking", **options)
    application = typer.Typer(rich_markup_mode="rich", add_completion=False)

    @application.command()
    @takes_settings(walking)
    def walk(place: str, **settings: object) -> None:
        typer.echo(f"{place} {dataclasses.asdict(walking.build(settings))} {settings}")

    return lambda *arguments: CliRunner().invoke(application, arguments)


def test_options_make_the_dataclass():
    walk = command_of(Walk)
    defaults = dataclasses.asdict(Walk())
    assert walk("here").output == f"here {defaults} {{}}\n"
    output = walk("here", "--steps", "3", "--gait", "run", "--towns", "4-5", "--singing").output
    assert output == f"here {defaults | {'steps': 3, 'gait': 'run', 'towns': (4, 5), 'singing': True}} {{}}\n"


def test_a_changed_default_changes_the_help_and_the_value():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Fast(Walk):
        __doc__ = Walk.__doc__
        pace: Annotated[float, Range(above=0)] = 7.25

    assert "[default: 1.5]" in flat(command_of(Walk)("--help").output)
    said = flat(command_of(Fast)("--help").output)
    assert "[default: 7.25]" in said and "[default: 1.5]" not in said
    assert "'pace': 7.25" in command_of(Fast)("here").output


def test_help_shows_panels_ranges_choices_and_other_names():
    said = command_of(Walk, panels={"gait": "Style"}, names={"pace": ("--pace", "-p")}, shown={"steps": "on and on"})(
        "--help"
    ).output
    assert "─ Walking ─" in said and "─ Style ─" in said
    words = flat(said)
    for shown in ("How many steps.", "1<=x<=9", "<walk|run>", "--pace -p", "(on and on)", "[default: 2-3]", "LOW-HIGH"):
        assert shown in words.replace("--pace,-p", "--pace -p"), shown
    assert "--no-singing" not in words


@pytest.mark.parametrize(
    "wrong", [("--steps", "10"), ("--gait", "fly"), ("--towns", "some"), ("--pace", "0"), ("--colour", "red")]
)
def test_a_value_out_of_range_is_refused(wrong):
    assert command_of(Walk)("here", *wrong).exit_code != 0


def test_a_command_without_settings_is_told_so():
    with pytest.raises(TypeError, match=r"walk must end in \*\*settings"):

        @takes_settings(SettingsOptions(kind=Walk, panel="Walking"))
        def walk(place: str) -> None: ...


@pytest.mark.parametrize("command", [each.name for each in app.registered_commands])
def test_every_command_stands_in_a_panel_and_groups_its_options(command):
    [registered] = [candidate for candidate in app.registered_commands if candidate.name == command]
    assert registered.rich_help_panel in {"Search", "Evaluate", "Train", "Serve"}
    plain = [name for name, (_, option, _) in options_of(command).items() if option.rich_help_panel is None]
    assert len(plain) <= 6, plain
