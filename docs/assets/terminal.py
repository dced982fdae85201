"""Make terminal.svg, the picture of a run's end in a terminal, from a run folder: python docs/assets/terminal.py RUN

The tables are printed by the program's own code into rich's recording console. What rich's picture would fetch
from elsewhere (a font) is taken out: the reader's own monospaced font serves.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from bytemlperf.report.terminal import print_run
from bytemlperf.runs.folder import read_run_json
from bytemlperf.runs.suite import summarise_suite

COLUMNS = 132
OUTPUT = Path(__file__).with_name("terminal.svg")
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
FONT_FACE = re.compile(r"@font-face\s*\{.*?\}\s*", re.DOTALL)


def picture(folder: Path) -> str:
    """The summary of a run as an SVG. Raises UserError."""
    console = Console(record=True, width=COLUMNS, highlight=False, force_terminal=True, file=io.StringIO())
    run = read_run_json(folder)
    command = " ".join(["bmp-llm", *map(str, run["command"][1:])])
    console.print(f"[bold]$[/] {command}")
    print_run(console, folder, run, summarise_suite(folder))
    drawn = FONT_FACE.sub("", console.export_svg(title="bmp-llm", theme=MONOKAI))
    return COMMENT.sub("", drawn).replace("Fira Code", "DejaVu Sans Mono")


if __name__ == "__main__":
    OUTPUT.write_text(picture(Path(sys.argv[1])), encoding="utf-8")
    print(OUTPUT)
