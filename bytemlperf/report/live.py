"""What shows a run while it goes on: metrics to scrape, the page of `--dashboard`, and what is pushed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bytemlperf.command.console import sayer
from bytemlperf.export.push import pushing
from bytemlperf.export.serving import serving
from bytemlperf.report.dashboard import dashboard

if TYPE_CHECKING:
    from bytemlperf.command.flags import MetricsOutput
    from bytemlperf.export.prometheus import Exporter


@contextmanager
def live(exporter: Exporter, output: MetricsOutput, *, quiet: bool) -> Iterator[Callable[[Path], None]]:
    """Serve what was asked for until the block ends; gives what takes the run's folder once there is one, and pushes from then on.
    Raises UserError for a port in use, an address that can't be used, or a package that is missing."""
    say = sayer(quiet=quiet)
    with serving(exporter, output, say), dashboard(output, say) as show, ExitStack() as stack:

        def begun(folder: Path) -> None:
            show(folder)
            stack.enter_context(pushing(exporter, output, folder.name))

        yield begun
