"""A run's report as PDF, to be sent or archived: the same page, drawn by fpdf2 without a browser.

The text is set in DejaVu Sans where the system has it. Without it the PDF's own font knows Latin-1
only: typographic signs get their plain forms, and what is left becomes `?`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bytemlperf.errors import UserError
from bytemlperf.report.gather import RunView
from bytemlperf.report.page import INSTALL_COMMAND, Page
from bytemlperf.report.run_page import run_page
from bytemlperf.report.text import cell, visible
from bytemlperf.runs.kinds import Plot, Table, Text
from bytemlperf.runs.verdicts import COLOURS
from bytemlperf_llm.report.pdf_plot import INK, SOFT, Box, draw_plot, undrawn

FONT_FOLDERS = ("/usr/share/fonts/truetype/dejavu", "/usr/share/fonts/dejavu", "/usr/share/fonts/TTF", "/usr/share/fonts/dejavu-sans-fonts")
FONT_FILES = {"": "DejaVuSans.ttf", "B": "DejaVuSans-Bold.ttf"}
PLAIN_FORMS = str.maketrans(
    {
        "–": "-",
        "—": "-",
        "−": "-",
        "∞": "inf",
        "≈": "~",
        "≤": "<=",
        "≥": ">=",
        "’": "'",
        "“": '"',
        "”": '"',
        "‹": "<",
        "›": ">",
        "→": "->",
        "…": "...",
    }
)
INK_OF = {"green": (44, 122, 75), "yellow": (146, 97, 10), "red": (173, 47, 39)}
MAX_ROWS = 120
MAX_COLUMNS = 10
PLOT_HEIGHT_MM_PER_PX = 0.19


def pdf_report(view: RunView) -> bytes:
    """The report as a PDF. Raises UserError without fpdf2."""
    return pdf_page(run_page(view))


def pdf_page(page: Page) -> bytes:
    """Any page as a PDF. Raises UserError without fpdf2."""
    return _Document(page.title).page(page)


class _Document:
    """An A4 document; each method sets one part of the page."""

    def __init__(self, title: str) -> None:
        try:
            from fpdf import FPDF
        except ImportError:
            raise UserError("a PDF needs fpdf2, which is not installed", INSTALL_COMMAND) from None
        self.pdf = pdf = FPDF(format="A4", unit="mm")
        self._family = _font(pdf)
        self.clean = visible if self._family != "helvetica" else partial(_latin1)
        pdf.set_title(self.clean(title))
        pdf.set_creator("bytemlperf-llm")
        pdf.set_auto_page_break(True, margin=14)
        pdf.set_margins(14, 14)
        pdf.add_page()

    def page(self, page: Page) -> bytes:
        """Everything, in the order of the page."""
        self._text(page.kicker, size=8, colour=SOFT)
        self._text(page.title, size=16, bold=True)
        self._text("   ".join(f"{name} {text}" for name, text in page.facts), size=8, colour=SOFT)
        if page.verdict:
            colour = INK_OF.get(COLOURS.get(page.verdict, ""), INK)
            self._text(" ".join((page.verdict_word or page.verdict.upper(), page.verdict_says)), size=10, bold=True, colour=colour)
        for text in (*page.reasons, *page.problems, *page.warnings):
            self._text(f"- {text}", size=8.5)
        if page.tiles:
            self._tiles(page)
        heading = ""
        for section in page.sections:
            group = section.group or section.title
            if group != heading:
                self._heading(group)
                heading = group
            if isinstance(section, Text):
                self._text(section.body, size=8 if section.style == "code" else 9, colour=SOFT if section.style == "note" else INK)
            elif isinstance(section, Table):
                self._table(section, heading)
            else:
                self._plot(section)
        self._text(page.footer, size=7, colour=SOFT)
        return bytes(self.pdf.output())

    def _text(self, text: str, *, size: float, bold: bool = False, colour: Sequence[int] = INK) -> None:
        if not text.strip():
            return
        self._set(size, bold=bold, colour=colour)
        self.pdf.multi_cell(0, size * 0.46, self.clean(text), new_x="LMARGIN", new_y="NEXT", align="L")
        self.pdf.ln(0.8)

    def _set(self, size: float, *, bold: bool = False, colour: Sequence[int] = INK) -> None:
        self.pdf.set_font(self._family, "B" if bold else "", size)
        self.pdf.set_text_color(*colour)

    def _heading(self, text: str) -> None:
        if self.pdf.will_page_break(80):
            self.pdf.add_page()
        self.pdf.ln(3)
        self._text(text, size=12, bold=True)

    def _tiles(self, page: Page) -> None:
        rows = [[tile.label, f"{tile.value} {tile.unit}".strip(), tile.detail] for tile in page.tiles]
        self._table(Table(title="", columns=["", "value", "95 % interval"], rows=rows), "")

    def _table(self, table: Table, heading: str) -> None:
        from fpdf.fonts import FontFace

        if table.title and table.title != heading:
            self._text(table.title, size=9, bold=True, colour=SOFT)
        columns = [str(name) for name in table.columns][:MAX_COLUMNS]
        self._set(7)
        self.pdf.set_draw_color(226, 227, 223)
        self.pdf.set_fill_color(255, 255, 255)
        widths = _widths(self.pdf, [columns, *[[cell(value) for value in row] for row in table.rows[:MAX_ROWS]]], self.clean)
        style = FontFace(emphasis="BOLD", color=SOFT, fill_color=(255, 255, 255))
        options = {"col_widths": widths, "line_height": 3.6, "borders_layout": "HORIZONTAL_LINES", "headings_style": style, "padding": 0.6}
        with self.pdf.table(align="LEFT", text_align="LEFT", first_row_as_headings=any(columns), **options) as drawn:
            for row in ([columns] if any(columns) else []) + [[cell(value) for value in row] for row in table.rows[:MAX_ROWS]]:
                line = drawn.row()
                for value in row[: len(columns)]:
                    line.cell(self.clean(value))
        left = len(table.rows) - MAX_ROWS
        self._text(
            " ".join(part for part in (f"{left} more rows are left out." if left > 0 else "", table.note) if part), size=7, colour=SOFT
        )

    def _plot(self, plot: Plot) -> None:
        height = max(45.0, plot.height * PLOT_HEIGHT_MM_PER_PX)
        if self.pdf.will_page_break(height + 12):
            self.pdf.add_page()
        self._text(plot.title, size=9, bold=True)
        unable = undrawn(plot)
        if unable:
            self._text(f"Not drawn here ({unable}); see the HTML report. {plot.alt}", size=8, colour=SOFT)
            return
        top = self.pdf.get_y()
        self.pdf.set_font(self._family, "", 7)
        draw_plot(self.pdf, plot, Box(self.pdf.l_margin, top, self.pdf.epw, height), self.clean)
        self.pdf.set_xy(self.pdf.l_margin, top + height)
        self._text(plot.note, size=7, colour=SOFT)


def _font(pdf: Any) -> str:
    for folder in map(Path, FONT_FOLDERS):
        if all((folder / name).is_file() for name in FONT_FILES.values()):
            for style, name in FONT_FILES.items():
                pdf.add_font("DejaVu", style, str(folder / name))
            return "DejaVu"
    return "helvetica"


def _latin1(text: str) -> str:
    return visible(text).translate(PLAIN_FORMS).encode("latin-1", "replace").decode("latin-1")


def _widths(pdf: Any, rows: Sequence[Sequence[str]], clean: Any) -> tuple[float, ...]:
    """Shares of the page's width by the longest line in each column; none takes more than half."""
    columns = len(rows[0])
    longest = [3.0] * columns
    for row in rows:
        for place, value in enumerate(row[:columns]):
            longest[place] = max(longest[place], *(pdf.get_string_width(clean(line)) + 3 for line in value.split("\n")))
    whole = pdf.epw
    if sum(longest) <= whole:
        spare = whole - sum(longest)
        return (*longest[:-1], longest[-1] + spare)
    kept = [min(each, whole / 2) for each in longest]
    return tuple(each * whole / sum(kept) for each in kept)
