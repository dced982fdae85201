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
