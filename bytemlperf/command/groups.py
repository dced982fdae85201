"""Groups of commands whose help costs no import of rich."""

from __future__ import annotations

from typing import Any

import typer
import typer.core


class PlainHelpGroup(typer.core.TyperGroup):
    """Lists its commands without rich, whose import would be most of what `--help` costs."""

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        self.rich_markup_mode = None
        super().format_help(ctx, formatter)


def group_app(help: str, cls: type[typer.core.TyperGroup] = PlainHelpGroup, name: str | None = None) -> typer.Typer:
    """An app of commands; without one of them it shows its help."""
    return typer.Typer(name=name, cls=cls, help=help, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


def suite_app(help: str, default: str, *, options_too: bool = False) -> typer.Typer:
    """A suite's commands. A first word that is none of them (an option too, where `options_too`) goes to the command `default`:
    `bmp micro gemm` is `bmp micro op gemm`."""

    class Group(PlainHelpGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            first = args[0] if args else "--help"
            if first not in (*self.commands, "--help", "-h") and (options_too or not first.startswith("-")):
                args = [default, *args]
            return list(super().parse_args(ctx, args))

    return group_app(help, Group)
