"""Groups of commands whose help costs no import of rich, and whose commands are made when they are called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, ClassVar

import typer
import typer.core
from typer.models import CommandInfo


class _Commands(dict[str, Any]):
    """Commands by name, each made of what was said of it when it is asked for: the options of all are most of what a start costs."""

    def __getitem__(self, name: str) -> Any:
        found = super().__getitem__(name)
        if isinstance(found, CommandInfo):
            mode = typer.core.DEFAULT_MARKUP_MODE
            found = self[name] = typer.main.get_command_from_info(found, pretty_exceptions_short=True, rich_markup_mode=mode)
        return found

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401  # made by the other


class PlainHelpGroup(typer.core.TyperGroup):
    """Lists its commands without rich, whose import would be most of what `--help` costs, and without their options."""

    said: ClassVar[Mapping[str, CommandInfo]] = {}

    def __init__(self, *, commands: Mapping[str, Any], **more: Any) -> None:
        super().__init__(commands=_Commands({**self.said, **commands}), **more)

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        self.rich_markup_mode = None
        super().format_help(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        made, self.commands = self.commands, {name: _line(name, command) for name, command in self.commands.items()}
        super().format_commands(ctx, formatter)
        self.commands = made


def _line(name: str, command: Any) -> Any:
    """What stands for a command in a list."""
    if not isinstance(command, CommandInfo):
        return command
    text = command.help or inspect.getdoc(command.callback)
    return typer.core.TyperCommand(name, help=text, short_help=command.short_help, hidden=command.hidden, deprecated=command.deprecated)


class App(typer.Typer):
    """An app of commands; without one of them it shows its help. `-h` is --help in all of them."""

    def __init__(self, help: str, cls: type[PlainHelpGroup] = PlainHelpGroup, name: str | None = None) -> None:
        self._said: dict[str, CommandInfo] = {}
        group = type(cls.__name__, (cls,), {"said": self._said})
        more: dict[str, Any] = {"context_settings": {"help_option_names": ["-h", "--help"]}, "pretty_exceptions_enable": False}
        super().__init__(name=name, cls=group, help=help, no_args_is_help=True, add_completion=name is not None, **more)
        self.callback()(_nothing if name is None else _root)

    def command(self, name: str | None = None, **said: Any) -> Callable[..., Any]:  # type: ignore[override]
        """As typer's."""

        def add(function: Callable[..., Any]) -> Callable[..., Any]:
            self._said[name or typer.main.get_command_name(function.__name__)] = CommandInfo(name, callback=function, **said)
            return function

        return add


def _nothing() -> None:
    return


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(f"bytemlperf-llm {version('bytemlperf-llm')}")
        raise typer.Exit


VERSION = typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")


def _root(version: Annotated[bool, VERSION] = False) -> None:  # noqa: ARG001  # its callback has printed it
    return


def suite_app(help: str, default: str, subjects: Callable[[], Iterable[str]], *, options_too: bool = False) -> typer.Typer:
    """A suite's commands. A first word that is none of them (an option too, where `options_too`) goes to the command `default`:
    `bmp micro gemm` is `bmp micro op gemm`. `subjects` are the words that it takes."""

    class Group(PlainHelpGroup):
        subjects_of = staticmethod(subjects)

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            first = args[0] if args else "--help"
            if first not in (*self.commands, "--help", "-h") and (options_too or not first.startswith("-")):
                args = [default, *args]
            return list(super().parse_args(ctx, args))

    return App(help, Group)
