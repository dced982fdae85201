"""The process of one run of a campaign: `serve-bench` with the flags that stand on standard input, as JSON.

    python -m bytemlperf_llm.campaign.worker < flags.json

Says one message: how it ended.
"""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stdout

import msgspec

from bytemlperf.child.inside import die_with_parent, messages
from bytemlperf.errors import UserError
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import resolve
from bytemlperf_llm.run.bench import serve_bench


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """The run's folder, or why there is none."""

    folder: str = ""
    error: str = ""


def run_job(flags: Flags) -> Ended:
    """Measure, in this process."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            serve_bench(resolve(flags), ["bmp-llm", "serve-bench", *flags.words()])
    except UserError as error:
        return Ended(error=str(error))
    return Ended(folder=printed.getvalue().strip().rpartition("\n")[2])


def main() -> None:
    """Take the flags, run, and say how it ended."""
    die_with_parent()
    say = messages()
    say(run_job(Flags.of(msgspec.json.decode(sys.stdin.buffer.readline()))))


if __name__ == "__main__":
    main()
