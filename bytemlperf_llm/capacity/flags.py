"""The flags of `capacity`, beside those of `serve-bench` that it has too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from bytemlperf.command.flags import Option, Options, fields_of
from bytemlperf.errors import UserError
from bytemlperf_llm.plan.flags import Engine, Limits

if TYPE_CHECKING:
    from bytemlperf_llm.capacity.search import Goal

LOAD = ("scenario", "request_rate", "num_warmups", "seed", "ignore_eos", "temperature", "top_p", "top_k", "goodput")
PROMPTS = ("input_len", "random_prefix_len", "output_len", "tokenizer")
OUTPUT = ("runs_dir", "label", "quiet", "report", "metadata")
CAPACITY_FLAGS = (*(field.name for field in fields_of(Engine)), *LOAD, *PROMPTS, *(field.name for field in fields_of(Limits)), *OUTPUT)


@dataclass(frozen=True, kw_only=True)
class CapacityFlags(Options, panel="Capacity"):
    """What is asked of the search."""

    share: Annotated[float, Option("Share of requests that must meet every service level, 0 to 1.", above=0, most=1)] = 0.95
    confidence: Annotated[float, Option("Probability that the interval holds the capacity, 0 to 1.", above=0.5, most=0.9999)] = 0.95
    within: Annotated[str, Option("Width of the interval to stop at, in percent of the rate that holds.")] = "5%"
    max_requests: Annotated[int, Option("Requests to send at most, the confirming run included.", least=1)] = 20_000
    confirm: Annotated[int | None, Option("Requests of the confirming run; 0: none. Default: as many as a probe needs.", least=0)] = None
    resume: Annotated[Path | None, Option("Folder of a stopped search to go on with; give the same flags again.")] = None

    def goal(self) -> Goal:
        """Raises UserError where it can't be reached."""
        from bytemlperf_llm.capacity.search import Goal

        if self.share >= 1:
            raise UserError("--share 1: no number of requests shows that none ever misses", "give a share below 1, such as 0.99")
        text = self.within.strip()
        try:
            within = float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
        except ValueError:
            within = 0.0
        if not 0 < within <= 1:
            raise UserError(f"--within {self.within!r} is not a width", "give percent, such as 5%")
        asked = Goal(share=self.share, confidence=self.confidence, within=within)
        confirm = self.confirmation(asked)
        least = 8 * asked.needed + confirm
        if least > self.max_requests:
            raise UserError(
                f"a share of {self.share:g} at {self.confidence:.4g} confidence needs at least {asked.needed:,} requests a probe, "
                f"{least:,} in all, and --max-requests is {self.max_requests:,}",
                f"give --max-requests {least} or more, or a lower --share",
            )
        return Goal(share=self.share, confidence=self.confidence, within=within, max_requests=self.max_requests - confirm)

    def confirmation(self, goal: Goal) -> int:
        return goal.needed if self.confirm is None else self.confirm
