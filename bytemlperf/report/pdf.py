"""A page as a PDF, printed by an installed Chromium or Chrome: what the browser shows is what is on paper."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from bytemlperf.command.exits import one_line
from bytemlperf.errors import UserError

BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
TIME_LIMIT_S = 120
FLAGS = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--no-pdf-header-footer",
    "--virtual-time-budget=60000",  # the plots are drawn by then; it passes at once where nothing is left to do
)


def print_page(html: str) -> bytes:
    """The page as a PDF. Raises UserError without a browser, and where it fails."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        raise UserError("--format pdf needs Chromium or Chrome, and neither is installed", "apt install chromium, or give --format html")
    with tempfile.TemporaryDirectory(prefix="bmp-pdf-", ignore_cleanup_errors=True) as folder:
        page, printed = Path(folder, "page.html"), Path(folder, "page.pdf")
        page.write_text(html, encoding="utf-8")
        flags = [*FLAGS, f"--user-data-dir={folder}/profile", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        try:
            done = subprocess.run(
                [browser, *flags, f"--print-to-pdf={printed}", page.as_uri()],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIME_LIMIT_S,
                check=False,
            )
            return printed.read_bytes()
        except subprocess.TimeoutExpired:
            raise UserError(f"{browser} printed no page in {TIME_LIMIT_S} s", "print report.html by hand") from None
        except FileNotFoundError:
            last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise UserError(f"{browser} printed no page: {one_line(last) or 'no reason given'}", "print report.html by hand") from None
        except OSError as error:
            raise UserError(f"can't start {browser}: {error.strerror}", "print report.html by hand") from None
