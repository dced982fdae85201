"""The process of one run of a campaign: the `Order` that stands on standard input, as JSON.

    python -m bytemlperf_llm.campaign.worker < order.json

Says one message: how it ended.
"""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stdout

import msgspec

from bytemlperf.child.inside import die_with_parent, messages
from bytemlperf.errors import UserError
from bytemlperf_llm.campaign.order import Order
from bytemlperf_llm.capacity.command import capacity
from bytemlperf_llm.capacity.flags import CapacityFlags
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.run.bench import serve_bench


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """The run's folder, or why there is none."""

    folder: str = ""
    error: str = ""


def run_job(order: Order) -> Ended:
    printed = io.StringIO()
    flags, asked = Flags.of(order.flags), None if order.capacity is None else CapacityFlags.of(order.capacity)
    try:
        with redirect_stdout(printed):
            if asked is None:
                serve_bench(order.plan(), ["bmp-llm", "serve-bench", *flags.words()])
            else:
                capacity(flags, asked, ["bmp-llm", "capacity", *flags.words(), *asked.words()])
    except UserError as error:
        return Ended(error=str(error))
    return Ended(folder=printed.getvalue().strip().rpartition("\n")[2])


def main() -> None:
    die_with_parent()
    say = messages()
    say(run_job(msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)))


if __name__ == "__main__":
    main()
