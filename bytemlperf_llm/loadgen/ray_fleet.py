"""Members on the machines of a Ray cluster, one actor each (`ray_relay.py`).

Ray places the actors and carries bytes; everything else is as on one machine. Each machine's clock
is compared with the driver's before the run and after it (`clock_offset.py`), the origin is given to
a member in its own clock, and offset and uncertainty stand in run.json: stamps of two machines can be
compared no better than that. Records come to the driver's run folder while the run goes on, so the
death of a node loses those of the last moment.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from bytemlperf.command.signals import terminate_like_interrupt
from bytemlperf.errors import UserError
from bytemlperf.extras import require
from bytemlperf.runs.log import LogFull
from bytemlperf.version import __version__
from bytemlperf_llm.live.metrics import LlmMetrics
from bytemlperf_llm.loadgen.clock_offset import Offset, measure_offset
from bytemlperf_llm.loadgen.fleet import Fleet, log_name
from bytemlperf_llm.loadgen.messages import FromMember, MemberLost, MemberSpec, Refused
from bytemlperf_llm.loadgen.ray_relay import News, Place, Relay, here
from bytemlperf_llm.loadgen.replay import open_log
from bytemlperf_llm.loadgen.sizing import Size, bounded
from bytemlperf_llm.plan.scenario import Scenario

START_DELAY_NS = 1_000_000_000  # "go" passes through Ray to every node
CONNECT_TIMEOUT_S = 5.0
PLACE_TIMEOUT_S = 120.0
CLOSE_TIMEOUT_S = 10.0


# -- the cluster -----------------------------------------------------------------------


def connect(address: str) -> None:
    """Connect this process to a cluster. Raises UserError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    require("--ray", "ray", "ray")
    import ray

    _check_listening(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        cause = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"can't use the Ray cluster at {address}: {cause}", "start one with: ray start --head") from None
    terminate_like_interrupt()  # Ray has put its own handler there


def disconnect() -> None:
    """Leave the cluster; it goes on."""
    import ray

    ray.shutdown()


def _check_listening(address: str) -> None:
    """Ray itself would try for minutes."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        port = parts.port
    except ValueError:
        port = None
    if port is None:
        if address == "auto":
            return
        if address == "local":  # every one of its ports would be open on every interface
            raise UserError("--ray local would start a cluster that other machines can reach", "on this machine use --workers")
        raise UserError(f"--ray {address} is not an address", "give HOST:PORT of the cluster's head, or 'auto'")
    try:
        socket.create_connection((parts.hostname or "", port), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise UserError(f"no Ray cluster responds at {address}: {error.strerror or error}", "start one with: ray start --head") from None


def cluster_size(workers: int | None, scenario: Scenario, scheduled: int | None) -> Size:
    """One worker a CPU of the cluster, unless a number is asked for. Raises UserError."""
    import ray

    cpus = int(ray.cluster_resources().get("CPU", 0))
    if cpus == 0 or (workers or 0) > cpus:
        raise UserError(f"the Ray cluster has {cpus} CPUs for {workers or 1} workers", "give fewer with --workers, or add nodes")
    return bounded(workers or cpus, scenario, scheduled)


# -- the fleet ---------------------------------------------------------------------------


def ray_fleet(
    common: MemberSpec, folder: Path, metrics: LlmMetrics, say: Callable[[str], None], max_error_rate: float | None, first_log: int = 0
) -> Fleet:
    """`common.workers` actors of the cluster that this process is connected to; their logs are numbered from `first_log`."""
    options, environment = portable(common.engine_options)
    handles = [
        RayHandle(
            msgspec.structs.replace(common, worker=worker, engine_options=options), environment, folder / log_name(first_log + worker), say
        )
        for worker in range(common.workers)
    ]
    return Fleet(handles, folder, metrics, start_delay_ns=START_DELAY_NS, max_error_rate=max_error_rate, note=say)


def portable(engine_options: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Engine options, and environment variables that belong with them, for another machine: the API
    key lies in a file or in the environment of this one."""
    options = dict(engine_options)
    name = options.get("api_key_env", "OPENAI_API_KEY")
    file = options.pop("api_key_file", "")
    try:
        key = Path(file).read_text(encoding="utf-8").strip() if file else os.environ.get(name, "")
    except OSError as error:
        raise UserError(f"can't read the API key from {file}: {error.strerror}", "check --api-key-file") from None
    return options, {name: key} if key else {}


class RayHandle:
    """One actor and its member; the driver's end."""

    def __init__(self, spec: MemberSpec, environment: dict[str, str], log: Path, say: Callable[[str], None]) -> None:
        self.worker = spec.worker
        self._spec, self._environment, self._say = spec, environment, say
        self._log, self._log_name = open_log(log), log.name
        self._actor: Any = None
        self._place: Place | None = None
        self._before: Offset | None = None
        self._after: Offset | None = None
        self._same_clock = False

    async def start(self) -> None:
        """Place the actor, start the member, compare clocks. Raises UserError."""
        import ray

        remote = ray.remote(Relay).options(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")
        self._actor = remote.remote()
        try:
            async with asyncio.timeout(PLACE_TIMEOUT_S):
                self._place = place = msgspec.json.decode(await self._actor.place.remote(), type=Place)
            if place.version != __version__:
                raise UserError(
                    f"Ray node {place.host} has bytemlperf-llm {place.version}, this machine {__version__}", "install the same version"
                )
            if refusal := await self._actor.prepare.remote(msgspec.json.encode(self._spec), self._environment):
                refused = msgspec.json.decode(refusal, type=Refused)
                raise UserError(f"on Ray node {place.host}: {refused.cause}", refused.fix)
            await self._compare_clocks(place)
        except TimeoutError:
            raise UserError(f"Ray placed no worker {self.worker} in {PLACE_TIMEOUT_S:g} s", "give fewer with --workers") from None
        except ray.exceptions.RayError as error:
            raise UserError(
                f"worker {self.worker} can't start on its Ray node: {_first_line(error)}", "install bytemlperf-llm on every node"
            ) from None

    async def _compare_clocks(self, place: Place) -> None:
        self._before = offset = await measure_offset(self._actor.clock.remote)
        self._same_clock = place.boot_id == here().boot_id and offset.is_nothing
        used = "the same clock" if self._same_clock else "taken into account"
        self._say(f"worker {self.worker} on {place.host}: its clock is at {offset.text()} of this machine's ({used})")

    async def go(self, origin_ns: int) -> None:
        assert self._before is not None
        there_ns = origin_ns if self._same_clock else origin_ns + self._before.offset_ns
        await _or_lost(self.worker, self._actor.go.remote(there_ns))

    def stop(self) -> None:
        self._actor.stop.remote()

    async def messages(self) -> AsyncIterator[FromMember]:
        """Carries the log over, too. Raises MemberLost."""
        over = False
        while not over:
            told, lines = await _or_lost(self.worker, self._actor.news.remote())
            try:
                self._log.append_lines(lines)
                await asyncio.to_thread(self._log.sync)
            except (LogFull, OSError) as error:
                self.stop()
                raise MemberLost(f"the records of worker {self.worker} can no longer be written ({error})") from None
            news = msgspec.json.decode(told, type=News)
            for message in news.messages:
                yield message
            if news.lost:
                raise MemberLost(news.lost)
            over = news.over
        self._after = await _or_lost(self.worker, measure_offset(self._actor.clock.remote))

    def described(self) -> dict[str, Any]:
        return {
            "log": self._log_name,
            "host": None if self._place is None else self._place.host,
            "same_clock": self._same_clock,
            "clock_before": None if self._before is None else self._before._asdict(),
            "clock_after": None if self._after is None else self._after._asdict(),
        }

    async def close(self) -> None:
        """End the actor and its member."""
        import ray

        if self._actor is not None:
            try:
                await asyncio.wait_for(self._actor.close.remote(), CLOSE_TIMEOUT_S)
            except (TimeoutError, ray.exceptions.RayError):
                self._say(f"worker {self.worker}: its Ray actor no longer responds")
            ray.kill(self._actor)
        self._log.close()


async def _or_lost(worker: int, answer: Any) -> Any:
    """Await an actor's answer. Raises MemberLost when it is gone."""
    import ray

    try:
        return await answer
    except ray.exceptions.RayError as error:
        raise MemberLost(f"worker {worker} was lost with its Ray actor: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
