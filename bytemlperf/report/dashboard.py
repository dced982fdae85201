"""What shows a run of any suite while it goes on: metrics to scrape and to push, and `--dashboard`, `bmp watch` in a process of its own
that ends with the run."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bytemlperf.child.process import environment, spawn, stop
from bytemlperf.command.console import sayer
from bytemlperf.errors import UserError
from bytemlperf.export.prometheus import serving
from bytemlperf.export.push import pushing
from bytemlperf.extras import require
from bytemlperf.runs.folder import read_run_json

if TYPE_CHECKING:
    from bytemlperf.command.flags import MetricsOutput
    from bytemlperf.export.prometheus import Exporter

LOOPBACK = "127.0.0.1"
LAST_LOOK_S = 10.0
"""For the page of a run that has ended, where somebody looks at it."""


def listen(port: int, *, flag: str) -> socket.socket:
    """A socket that listens on loopback. Raises UserError, which names the flag, when the port is in use."""
    try:
        return socket.create_server((LOOPBACK, port))
    except OSError as error:
        raise UserError(
            f"can't serve a page on {LOOPBACK}:{port}: {error.strerror}", f"give another port with {flag}, 0 for any free one"
        ) from None


@contextmanager
def dashboard(output: MetricsOutput, say: Callable[[str], None]) -> Iterator[Callable[[Path], None]]:
    """Listen where the page is asked for, and say where; gives what shows a run folder there for the time of the block.

    A port in use is known at once. Raises UserError for that, and without jinja2.
    """
    if not output.dashboard and output.dashboard_port is None:
        yield lambda _folder: None
        return
    require("--dashboard", "report", "jinja2")
    started: list[subprocess.Popen[bytes]] = []
    with listen(output.dashboard_port or 0, flag="--dashboard-port") as listening:
        say(f"dashboard at http://{LOOPBACK}:{listening.getsockname()[1]}/ until the run ends")

        def show(folder: Path) -> None:
            number = listening.fileno()
            arguments = ["-m", "bytemlperf.report.watch", str(number), str(folder.absolute())]
            started.append(spawn(arguments, environment(threads=1), stdin=subprocess.DEVNULL, pass_fds=[number]))

        try:
            yield show
        finally:
            for process in started:
                stop(process, LAST_LOOK_S)


@contextmanager
def live(exporter: Exporter, output: MetricsOutput, *, quiet: bool) -> Iterator[Callable[[Path], None]]:
    """Serve what was asked for until the block ends; gives what takes the run's folder once there is one, and pushes from then on.
    Raises UserError for a port in use, an address that can't be used, or a package that is missing."""
    say = sayer(quiet=quiet)
    with serving(exporter, output, say), dashboard(output, say) as show, ExitStack() as stack:

        def begun(folder: Path) -> None:
            show(folder)
            exporter.name_run(folder.name, read_run_json(folder))
            stack.enter_context(pushing(exporter, output, folder.name))

        yield begun
