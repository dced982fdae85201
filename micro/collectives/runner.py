"""The case runner "ranks": keeps a group of ranks up, starts another where a case asks for another, and makes
one outcome of what the ranks say."""

from __future__ import annotations

import os
from statistics import median

import msgspec

from bytemlperf.child.limits import usable_cores
from bytemlperf.errors import UserError
from bytemlperf.lazy import torch
from bytemlperf.report.text import counted
from micro.collectives.operators import NEEDS_DEVICE, bus_factor, link_bytes
from micro.collectives.world import World
from micro.measure.messages import Hello, Job, Outcome, RankDone, RankLatency
from micro.measure.timing import latency_of

RANKS_PER_CORE = 2
MAX_RANKS_VARIABLE = "BMP_MAX_RANKS"
"""Most ranks on a CPU, where the default, two a core, is not what is wanted."""

TELLING_SKEW = 0.1
"""From here on the slowest rank is named beside its row."""


class RanksRunner:
    """A `micro.sweep.sweep.CaseRunner`."""

    def __init__(self, device: str, threads: int) -> None:
        self._kind, self._threads = device.partition(":")[0], threads
        self._world: World | None = None

    def hello(self) -> Hello:
        """Two ranks where there can be two. Raises UserError when they don't come up."""
        world = self._group(min(2, most_ranks(self._kind)), default_backend(self._kind))
        return msgspec.structs.replace(world.hello, device_name=f"{world.hello.device_name}, {world.ranks} ranks, {world.backend}")

    def run(self, job: Job, limit_s: float) -> Outcome:
        """One case. Groups are made before its time begins."""
        ranks, backend = int(job.args["world_size"]), self._backend(job)
        try:
            world = self._group(ranks, backend)
        except UserError as error:
            return Outcome(status="failed", reason=error.cause)
        ending = world.run(job, limit_s)
        if ending.lost:
            self.close()
            return Outcome(status="failed", reason=ending.lost)
        return _outcome(job, ending.done, self._note(ranks))

    def _group(self, ranks: int, backend: str) -> World:
        """The one that is up where it fits, else a new one."""
        if self._world is None or (self._world.ranks, self._world.backend) != (ranks, backend):
            self.close()
            threads = self._threads or max(1, usable_cores() // ranks)
            world = World(ranks, backend, self._kind, threads)
            world.start()
            self._world = world
        return self._world

    def _backend(self, job: Job) -> str:
        return default_backend(self._kind) if job.args["backend"] == "auto" else str(job.args["backend"])

    def refusal(self, job: Job) -> str:
        """No memory to copy from, more ranks than there is room for, or a backend that isn't there."""
        if job.op in NEEDS_DEVICE and self._kind == "cpu":
            return f"{job.op} is a link between host and device memory; the device is cpu"
        most = most_ranks(self._kind)
        if job.args["world_size"] > most:
            if self._kind != "cpu":
                return f"there are {most} devices for {job.args['world_size']} ranks"
            cores = usable_cores()
            return f"{job.args['world_size']} ranks on {counted(cores, 'core')}; at most {most} (more with {MAX_RANKS_VARIABLE}=N)"
        return backend_fault(self._backend(job), self._kind)

    def _note(self, ranks: int) -> str:
        cores = usable_cores()
        return f"{ranks} ranks share {counted(cores, 'core')}" if self._kind == "cpu" and ranks > cores else ""

    def close(self) -> None:
        """End the ranks."""
        world, self._world = self._world, None
        if world is not None:
            world.close()


def most_ranks(kind: str) -> int:
    """Ranks that this machine has room for: one a device, two a core on a CPU."""
    if kind != "cpu":
        return int(getattr(torch, kind).device_count())
    most = os.environ.get(MAX_RANKS_VARIABLE, "")
    return int(most) if most.isdigit() and int(most) > 0 else max(2, RANKS_PER_CORE * usable_cores())


def default_backend(kind: str) -> str:
    """torch.distributed's own choice for a kind of device."""
    return str(torch.distributed.get_default_backend_for_device(kind))


def backend_fault(name: str, kind: str) -> str:
    """Why a backend can't be used here, "" where it can."""
    known = [backend for backend in torch.distributed.Backend.backend_list if backend not in ("undefined", "fake")]
    if name not in known:
        return f"torch.distributed has no backend '{name}'; it knows {', '.join(known)}"
    if not torch.distributed.is_backend_available(name):
        return f"this torch was built without {name}"
    if kind not in torch.distributed.Backend.backend_capability.get(name, [kind]):
        return f"{name} does not work on {kind}"
    return ""


def _outcome(job: Job, done: dict[int, RankDone], shared: str) -> Outcome:
    first = next((rank for rank in sorted(done) if done[rank].status not in ("ok", "stopped")), None)
    if first is not None:
        ended = done[first]
        assert ended.status != "stopped"
        alike = all(other.reason == ended.reason for other in done.values())
        return Outcome(status=ended.status, reason=ended.reason if alike else f"rank {first}: {ended.reason}", checked=ended.checked)
    lead = done[0]
    assert lead.timed is not None
    skew, slowest, share = skew_of(lead.by_rank, taking_part(job))
    remark = f"rank {slowest} is the slowest in {share:.0%} of samples" if skew > TELLING_SKEW else ""
    ranks = []
    for rank, samples in enumerate(map(list, zip(*lead.by_rank, strict=True))):
        latency = latency_of(msgspec.structs.replace(lead.timed, samples_ns=samples))
        ranks.append(RankLatency(rank=rank, latency_us=latency, samples_ns=samples))
    worst = max((ended.checked for ended in done.values() if ended.checked), key=lambda checked: checked.max_absolute_error, default=None)
    return Outcome(
        status="ok",
        note="; ".join(part for part in (lead.note, remark, shared) if part),
        checked=worst,
        timed=lead.timed,
        ranks=ranks,
        skew=skew,
        link_bytes=link_bytes(job.op, job.args),
        bus_factor=bus_factor(job.op, int(job.args["world_size"])),
    )


def taking_part(job: Job) -> list[int]:
    """The ranks that do something: of p2p the two that it is between, the others stand by."""
    return [job.args["src_device"], job.args["dst_device"]] if job.op == "p2p" else list(range(int(job.args["world_size"])))


def skew_of(by_rank: list[list[int]], ranks: list[int]) -> tuple[float, int, float]:
    """Of those ranks the median sample's (slowest − fastest) / slowest, which is most often slowest, and in what share."""
    taken = [[sample[rank] for rank in ranks] for sample in by_rank]
    skew = float(median((max(sample) - min(sample)) / max(1, max(sample)) for sample in taken))
    slowest = [ranks[sample.index(max(sample))] for sample in taken]
    most = max(set(slowest), key=slowest.count)
    return skew, most, slowest.count(most) / len(slowest)
