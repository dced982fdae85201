"""A flag is declared once: its name, type, range, choices and default make the option, and refuse what doesn't fit."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from bytemlperf.app import COMMANDS
from bytemlperf.app import app as bmp
from bytemlperf.command.exits import GONE
from bytemlperf.command.flags import Argument, Option, Options, fields_of, only, with_flags
from bytemlperf.errors import UserError
from bytemlperf_llm.plan.vllm_words import NO_VALUE, SAME

ROOT = Path(__file__).parents[1]


class Load(Options, panel="Load"):
    duration_s: Annotated[float | None, Option("Seconds.", above=0)] = None
    shares: Annotated[tuple[float, ...], Option("Shares; repeatable.", "--share -s", least=0, most=1)] = ()
    burstiness: Annotated[float, Option("Shape.", above=0, most=math.inf)] = 1.0
    loop: Annotated[Literal["closed", "open"], Option("Loop:")] = "closed"
    urls: Annotated[str | None, Option("Addresses.", "--url", several=True)] = None


class Flags(Load):
    models: Annotated[tuple[str, ...], Argument("Models.")]
    dims: Annotated[dict[str, int] | None, Option("Sizes.", "--dim")] = None
    report: Annotated[bool, Option("Write a page.")] = True
    quiet: Annotated[bool, Option("Say nothing.", "--quiet -q", sets="silent")] = False


def parsed(*words: str) -> Any:
    """The object that a command gets for these words."""
    got: list[Flags] = []
    app = typer.Typer()

    @app.command()
    @with_flags
    def command(flags: Flags) -> None:
        """Nothing."""
        got.append(flags)

    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return got[0]


def test_a_command_gets_one_object_of_what_was_typed():
    flags = parsed("a", "b", "--duration", "3", "-s", "0.5", "--share", "1", "--dim", "x=4", "--no-report", "-q")
    assert flags == Flags(models=("a", "b"), duration_s=3.0, shares=(0.5, 1.0), dims={"x": 4}, report=False, quiet=True)
    assert flags.settings(Flags) == {"silent": ("--quiet", True)}
    assert parsed("a") == Flags(models=("a",))
    assert parsed("a").settings(Flags) == {}


def test_a_flag_of_several_values_has_them_in_one_text():
    flags = parsed("a", "--url", "x", "--url", "y")
    assert flags.urls == "x y"
    assert "--url x y" in " ".join(flags.words())


def test_what_is_recorded_is_json():
    flags = Flags(models=("a",), burstiness=math.inf)
    assert json.loads(json.dumps(flags.recorded()))["burstiness"] is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"duration_s": 0.0}, "--duration 0 is not above 0; give a number above 0"),
        ({"duration_s": math.nan}, "--duration nan is not above 0"),
        ({"duration_s": math.inf}, "--duration inf is not finite"),
        ({"shares": (0.5, 7.0)}, "--share 7 is too large; give a number from 0 to 1"),
        ({"shares": (-1.0,)}, "--share -1 is below 0; give a number from 0 to 1"),
        ({"loop": "opened"}, "--loop 'opened' is unknown; did you mean 'open'?"),
    ],
)
def test_a_value_that_does_not_fit_makes_no_object(values: dict[str, Any], said: str):
    with pytest.raises(UserError) as refused:
        Flags(models=("a",), **values)
    assert str(refused.value).startswith(said)
    with pytest.raises(UserError):
        Flags(models=("a",)).changed(**values)


def test_flags_are_set_by_name_and_never_changed():
    flags = Flags(models=("a",))
    with pytest.raises(AttributeError):
        flags.quiet = True  # type: ignore[misc]
    with pytest.raises(TypeError, match="has no silent"):
        Flags(models=("a",), silent=True)  # type: ignore[call-arg]
    assert flags.part(Load) == Load()


def test_what_is_recorded_makes_the_same_flags_again():
    flags = Flags(models=("a", "b"), duration_s=3.0, dims={"x": 4})
    assert Flags.of(json.loads(json.dumps(flags.recorded()))) == flags
    with pytest.raises(msgspec.ValidationError, match=r"\$\.quiet"):
        Flags.of({"models": ["a"], "quiet": "yes"})


def test_help_ends_in_choices_and_defaults():
    helps = {field.flag: field._help() for field in fields_of(Flags)}
    assert helps["--loop"] == "Loop: closed (default) or open."
    assert helps["--burstiness"] == "Shape. Default: 1."
    assert helps["--report"] == "Write a page. Default: yes."
    assert helps["--duration"] == "Seconds."


def test_a_command_may_take_some_of_a_class():
    app = typer.Typer()

    @app.command()
    @with_flags
    def command(flags: Annotated[Load, only("loop")]) -> None:
        """Nothing."""
        print(flags.loop, flags.burstiness)

    assert CliRunner().invoke(app, ["--loop", "open"]).output == "open 1.0\n"
    assert CliRunner().invoke(app, ["--duration", "3"]).exit_code == 2


# -- the flags of all commands ----------------------------------------------------------------------


def commands() -> dict[str, Any]:
    """Every command of `bmp`, by its path."""
    found: dict[str, Any] = {}

    def walk(path: str, command: Any) -> None:
        found[path] = command
        for name in command.list_commands(None) if hasattr(command, "list_commands") else ():
            walk(f"{path} {name}", command.get_command(None, name))

    walk("bmp", get_command(bmp))
    return found


def options_of(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("--")}


def test_a_flag_that_went_is_gone_and_what_stands_in_for_it_is_there():
    every = commands()
    known = set[str]().union(*map(options_of, every.values()))
    for gone, instead in GONE.items():
        command, _, name = gone.rpartition(" ")
        for path, found in every.items():
            assert (command and f" {command} " not in f" {path} ") or name not in options_of(found), (path, gone)
        assert not set(re.findall(r"--[a-z][a-z-]+", instead)) - known - {"--web"}, instead


def test_one_meaning_has_one_help_in_every_command():
    helps: dict[str, set[str]] = {}
    for command in commands().values():
        for parameter in command.params:
            helps.setdefault(parameter.opts[0], set()).add(getattr(parameter, "help", "") or "")
    shared = ("--quiet", "--prometheus-port", "--prometheus-host", "--push-gateway", "--push-interval", "--dashboard", "--cards", "--json")
    for name in shared:
        assert len(helps[name]) == 1, helps[name]


def test_every_flag_that_the_pages_name_is_there():
    known = set[str]().union(*map(options_of, commands().values())) | {*SAME, *NO_VALUE, "--help", "--backend"}
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for line in page.read_text().splitlines():
            command = re.search(r"(?:^|[`$ ])(bmp(?:-llm)? [a-z][^`#|]*)", line)
            for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", command[1]) if command else ():
                assert flag in known, f"{page.name}: {flag} in {line}"


def test_the_help_of_a_group_cuts_no_line():
    every = commands()
    for path, group in every.items():
        for name in group.list_commands(None) if hasattr(group, "list_commands") and path != "bmp" else ():
            command, room = group.get_command(None, name), 72 - max(map(len, group.commands))
            assert command.hidden or not command.get_short_help_str(room).endswith("..."), f"{path} {name}"
    assert COMMANDS.built_in.keys() <= {path.split()[1] for path in every if " " in path}
