"""A sheet of A4 that text, tables and histograms are drawn on, at a scale. Drawn by fpdf2.

The built-in fonts know Latin-1; what they don't know becomes `?`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

MARGIN_MM, LINE_MM, TEXT_PT = 14.0, 4.6, 8.5
WIDTH_MM, BOTTOM_MM = 182.0, 297.0 - 10.0
NARROWEST = 0.55
"""Of the text's size: what doesn't fit its cell even so is cut."""
GREY, BLUE, ORANGE = (110, 110, 110), (70, 110, 180), (225, 140, 50)


class Layout(NamedTuple):
    """How much a sheet takes: the size of text over the usual one, the most points of speed, the height of a histogram,
    the most characters of one text."""

    scale: float
    points: int
    bars_mm: float
    characters: int


class Paper:
    """One sheet at a layout; whoever draws asks `fits` at the end."""

    def __init__(self, layout: Layout) -> None:
        from fpdf import FPDF

        self.layout = layout
        self.pdf = FPDF(format="A4")
        self.pdf.set_margins(MARGIN_MM, MARGIN_MM)
        self.pdf.set_auto_page_break(False)
        self.pdf.add_page()

    def fits(self) -> bool:
        """Whether all that was drawn lies on the sheet."""
        return bool(self.pdf.get_y() <= BOTTOM_MM)

    def head(self, text: str) -> None:
        """The sheet's title."""
        self._font("B", 17)
        self._text(text, 8)

    def title(self, text: str) -> None:
        """A section's title."""
        self.pdf.ln(2.5 * self.layout.scale)
        self._font("B", 11)
        self._text(text, 6)

    def section(self, title: str, lines: Sequence[tuple[str, str]]) -> None:
        """A title with `name: text` lines."""
        self.title(title)
        for name, text in lines:
            self.line(f"{name}: {text}" if name else text)

    def line(self, text: str) -> None:
        """A paragraph."""
        self._font("", TEXT_PT)
        self._text(text, LINE_MM)

    def grey(self, text: str) -> None:
        """A remark."""
        self._font("", 7.5)
        self.pdf.set_text_color(*GREY)
        self._text(text, LINE_MM)
        self.pdf.set_text_color(0, 0, 0)

    def table(self, rows: Sequence[Sequence[str]], widths_mm: Sequence[float]) -> None:
        """Rows under a bold one; text that is wider than its cell is set smaller."""
        self.pdf.ln(self.layout.scale)
        for place, row in enumerate(rows):
            for text, width in zip(row, widths_mm, strict=True):
                self._cell(text, width, "B" if place == 0 else "")
            self.pdf.ln(LINE_MM * self.layout.scale)

    def histogram(self, held: dict[str, Any]) -> None:
        """Both distributions, bar beside bar."""
        left, top, height = MARGIN_MM, self.pdf.get_y() + 1, self.layout.bars_mm
        bins = len(held["ours"])
        largest = max(*held["ours"], *held["reference"], 1)
        step = WIDTH_MM / bins
        for place in range(bins):
            for shift, key, colour in ((0.1, "reference", BLUE), (0.5, "ours", ORANGE)):
                tall = height * held[key][place] / largest
                self.pdf.set_fill_color(*colour)
                self.pdf.rect(left + step * (place + shift), top + height - tall, step * 0.4, tall, style="F")
        self.pdf.set_y(top + height)
        self.grey(f"values from {held['edges'][0]:.4g} to {held['edges'][-1]:.4g}; blue: reference, orange: backend")

    def _font(self, style: str, points: float) -> None:
        self.pdf.set_font("helvetica", style, points * self.layout.scale)

    def _text(self, text: str, height_mm: float) -> None:
        most = self.layout.characters
        plain = latin(text)
        cut = plain if len(plain) <= most else plain[: most - 3] + "..."
        self.pdf.multi_cell(0, height_mm * self.layout.scale, cut, align="L", new_x="LMARGIN", new_y="NEXT")

    def _cell(self, text: str, width_mm: float, style: str) -> None:
        plain, room = latin(text), width_mm - 2 * self.pdf.c_margin
        self._font(style, TEXT_PT)
        wide = self.pdf.get_string_width(plain)
        if wide > room:
            self._font(style, TEXT_PT * max(NARROWEST, room / wide))
        while self.pdf.get_string_width(plain) > room + 0.01:
            plain = plain[:-1]
        self.pdf.cell(width_mm, LINE_MM * self.layout.scale, plain)


def latin(text: str) -> str:
    """The text in the characters that the built-in fonts have."""
    shown = "".join(char if char.isprintable() else "?" for char in text.replace("–", "-").replace("×", "x").replace("…", "..."))
    return shown.encode("latin-1", "replace").decode("latin-1")
