"""The flags of `capacity`, beside those of `serve-bench` that it has too."""

from pathlib import Path
from typing import Annotated

from bytemlperf.command.flags import Option, Options, fields_of
from bytemlperf_llm.plan.flags import Engine, Limits, Prompts

LOAD = (
    *("scenario", "request_rate", "max_concurrency", "num_warmups", "cache", "seed"),
    *("ignore_eos", "temperature", "top_p", "top_k", "goodput", "tokenize_prompt", "batch_size"),
)
OUTPUT = ("runs_dir", "label", "quiet", "report", "metadata")
CAPACITY_FLAGS = (
    *(field.name for field in fields_of(Engine)),
    *LOAD,
    *(field.name for field in fields_of(Prompts)),
    *(field.name for field in fields_of(Limits)),
    *OUTPUT,
)


class CapacityFlags(Options, panel="Capacity"):
    """What is asked of the search."""

    by: Annotated[str, Option("What is raised: rate (requests/s, sessions/s), concurrency (closed loop) or sessions (users).")] = "rate"
    share: Annotated[float, Option("Share of requests, turns or sessions that must meet every service level.", above=0, most=1)] = 0.95
    confidence: Annotated[float, Option("Probability that the interval holds the capacity, 0 to 1.", above=0.5, most=0.9999)] = 0.95
    within: Annotated[str, Option("Width of the interval to stop at, in percent of the rate that holds.")] = "5%"
    max_requests: Annotated[int, Option("Requests to send at most, the confirming run included.", least=1)] = 20_000
    confirm: Annotated[int | None, Option("Requests of the confirming run; 0: none. Default: as many as a probe needs.", least=0)] = None
    price_per_hour: Annotated[str | None, Option("What the server's hardware costs per hour, as '2.50 USD'. Default: the card's.")] = None
    resume: Annotated[Path | None, Option("Folder of a stopped search to resume; give the same flags again.", run=True)] = None
