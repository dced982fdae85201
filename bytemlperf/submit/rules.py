"""The rules of a submission, each a function from what was read to findings. No file is read here.

The first rule is ByteMLPerf's: at least five models with all regular ones among them. The others
are what makes a result believable by someone else: whole runs that verify, a command and a seed, the
packages of the lock, the precision and the sparsity that were declared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bytemlperf.errors import UserError
from bytemlperf.hardware import cards, measured
from bytemlperf.report.text import counted
from bytemlperf.runs.folder import part
from bytemlperf.runs.kinds import PlannedJob, few
from bytemlperf.submit.declaration import NAME as DECLARATION
from bytemlperf.submit.declaration import Declaration

MIN_MODELS = 5
"""ByteMLPerf: a vendor submits at least so many models."""

REGULAR_MODELS = ("albert", "bert", "deberta", "resnet50", "roberta", "swin", "wide-deep")
"""ByteMLPerf's regular models, by their names here; all of them are mandatory."""

PUBLISHED_SIZE = "published"
MAX_LISTED = 5

Level = Literal["problem", "warning", "ok"]


class Finding(NamedTuple):
    """What one rule found: `subject` is the run or the file that it is about."""

    level: Level
    rule: str
    subject: str
    text: str


class RunRead(NamedTuple):
    """One run folder, as read for the rules. `problems` are what verify found."""

    name: str
    run: dict[str, Any]
    verdict: str
    problems: Sequence[str]
    jobs: Sequence[PlannedJob]


class Read(NamedTuple):
    """A submission as the rules see it; `lock` is the text of the lock."""

    declared: Declaration
    runs: Sequence[RunRead]
    lock: str = ""

    def jobs(self) -> list[tuple[str, PlannedJob]]:
        """Each with the name of its run."""
        return [(run.name, job) for run in self.runs for job in run.jobs]


Found = Iterator[tuple[Level, str, str]]
"""Level, subject and text of a rule's findings. What is well is yielded last, and told where nothing else was found."""


def all_rules(submission: Read) -> list[Finding]:
    """Every finding, in the order of the rules."""
    return [finding for rule in RULES for finding in findings(rule, submission)]


def findings(rule: str, submission: Read) -> list[Finding]:
    every = [Finding(level, rule, subject, text) for level, subject, text in RULES[rule](submission)]
    return [finding for finding in every if finding.level != "ok"] or every


def suites_present(submission: Read) -> Found:
    """Every declared suite has a run, and no run is of another."""
    declared, runs, _ = submission
    there = {str(run.run.get("kind")) for run in runs}
    for suite in declared.suites:
        if suite not in there:
            yield "problem", "runs/", f"no run of the suite {suite} below runs/"
    for run in runs:
        if run.run.get("kind") not in declared.suites:
            yield "problem", run.name, f"a run of {run.run.get('kind')}, which is not listed under suites"
    yield "ok", "runs/", f"{counted(len(runs), 'run')} of {', '.join(sorted(there))}"


def verified(submission: Read) -> Found:
    """`verify` accepts every run folder."""
    for run in submission.runs:
        for text in few(run.problems, MAX_LISTED):
            yield "problem", run.name, text
    yield "ok", "runs/", "every run is unchanged"


def complete(submission: Read) -> Found:
    """Every run ended by itself, and its verdict is valid."""
    for run in submission.runs:
        end = run.run.get("end")
        if not end:
            yield "problem", run.name, "the run has no end: it was killed"
        elif end.get("stopped_by_user"):
            yield "problem", run.name, "the run was stopped by the user"
        elif end.get("failure"):
            yield "problem", run.name, f"the run failed: {end['failure']}"
        if run.verdict != "valid":
            yield "problem", run.name, f"its verdict is {run.verdict or 'missing'}, not valid"
    yield "ok", "runs/", "every run completed and is valid"


def models(submission: Read) -> Found:
    """At least five models measured at their published size, all regular ones among them."""
    if "general" not in submission.declared.suites:
        yield "ok", "runs/", "no general runs are declared, so there are no models to count"
        return
    jobs = [job for _, job in submission.jobs()]
    measured = {job.model for job in jobs if job.status == "ok" and job.size == PUBLISHED_SIZE}
    small = {job.model for job in jobs if job.size != PUBLISHED_SIZE}
    failed = {job.model: f"failed: {job.reason or job.status}" for job in jobs if job.status != "ok"}
    if len(measured) < MIN_MODELS:
        yield "problem", "runs/", f"{len(measured)} models were measured, a submission has at least {MIN_MODELS}"
    for name in REGULAR_MODELS:
        if name not in measured:
            why = failed.get(name) or ("was measured only at a smaller size" if name in small else "is not there")
            yield "problem", name, f"the regular model {name} {why}"
    yield "ok", "runs/", f"{len(measured)} models, all {len(REGULAR_MODELS)} regular ones among them"


def reproducible(submission: Read) -> Found:
    """A command, a seed, known source, and the packages that the lock pins."""
    pins = locked(submission.lock)
    if not pins:
        yield "problem", "lock", "the lock pins no package with =="
    for name, run, *_ in submission.runs:
        environment = part(run, "environment")
        packages = {_plain(package): str(version) for package, version in part(environment, "packages").items()}
        held = {"command": run.get("command"), "seed": isinstance(run.get("seed"), int), "package versions": packages}
        for what, value in held.items():
            if not value:
                yield "problem", name, f"run.json holds no {what}"
        others = (f"{it} {ran} ran, the lock has {pins[it]}" for it, ran in sorted(packages.items()) if pins.get(it, ran) != ran)
        for text in few(others, MAX_LISTED):
            yield "problem", name, text
        unpinned = sorted(set(packages) - set(pins) - {"bytemlperf-llm"})
        if pins and unpinned:
            yield "problem", name, f"the lock doesn't pin {', '.join(unpinned[:MAX_LISTED])}"
        if part(environment, "git").get("dirty"):
            yield "warning", name, "the source tree had uncommitted changes"
    yield "ok", "runs/", "command, seed and packages are known, the lock's versions ran"


def as_declared(submission: Read) -> Found:
    """No precision or sparsity but those declared, and every declared precision was run."""
    declared, jobs = submission.declared, submission.jobs()
    if not jobs:
        yield "warning", "runs/", "these runs don't record precision and sparsity; only the declaration says them"
        return
    names = set(map(cards.normal_dtype, declared.precisions))
    ran = {cards.normal_dtype(job.precision) for _, job in jobs}
    for name in sorted(ran - names):
        yield "problem", DECLARATION, f"the precision {name} ran and isn't declared"
    for name in sorted(names - ran):
        yield "problem", DECLARATION, f"the precision {name} is declared and never ran"
    for run, job in jobs:
        if job.status == "ok" and not job.sparsity:
            yield "problem", run, f"{job.name} has no record of its sparsity; run it again"
        elif job.sparsity and not _as_sparse(job.sparsity, declared.sparsity):
            yield "problem", run, f"{job.name} ran with sparsity {job.sparsity}, declared is {declared.sparsity}"
    yield "ok", "runs/", f"precisions {', '.join(sorted(ran))}, sparsity {declared.sparsity}"


def _as_sparse(ran: str, declared: str) -> bool:
    """Whether both are the same sparsity: `32x` is 1:32, and says nothing of where the 32 lie (2:64 is it as well)."""
    if declared.endswith("x") and ":" in ran:
        kept, group = map(int, ran.split(":"))
        return group == kept * int(declared[:-1])
    return ran == declared


def on_the_device(submission: Read) -> Found:
    """Every run ran on one kind of machine, and where its card is sure, on the declared device."""
    declared, runs, _ = submission
    known = cards.load()
    card_name = None
    with suppress(UserError):  # an unknown device is a finding, not an error
        card_name = cards.find(declared.device, known).name
    for run in runs:
        stated = measured.stated(run.run, known)
        card = known[stated.card_id] if stated else cards.match(measured.hardware_of(run.run))
        if card is not None and card.name != card_name:
            yield "problem", run.name, f"ran on {card.name}, declared is {declared.device}"
        elif stated is None and measured.is_remote(run.run):
            yield "warning", run.name, f"measured over HTTP, so its hardware isn't known: {measured.FIX}"
    machines = sorted({_device_text(run) for run in runs if not measured.is_remote(run.run)})
    if len(machines) > 1:
        yield "problem", "runs/", f"runs are from several machines: {'; '.join(machines)}"
    if card_name is None:
        yield "warning", DECLARATION, f"no spec card knows {declared.device!r}: bmp hardware list shows those that are known"
    yield "ok", "runs/", f"{declared.vendor} {declared.device}"


RULES: dict[str, Callable[[Read], Found]] = {
    "suites": suites_present,
    "verify": verified,
    "complete": complete,
    "models": models,
    "reproducible": reproducible,
    "declared": as_declared,
    "device": on_the_device,
}


def locked(text: str) -> dict[str, str]:
    """Pins of a requirements file, by normalised name: what stands before and after `==`."""
    pins = re.findall(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*==\s*([^\s;#\\]+)", text, re.MULTILINE)
    return {_plain(name): version for name, version in pins}


def _device_text(run: RunRead) -> str:
    hardware = measured.hardware_of(run.run)
    gpus = [str(gpu.get("name")) for gpu in hardware.get("gpus") or ()]
    return f"{len(gpus)} × {gpus[0]}" if gpus else str(part(hardware, "cpu").get("model"))


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared_files(declared: Declaration) -> list[Path]:
    """The files that the declaration names, relative to the folder."""
    environment = declared.environment
    return [Path(environment.lock), *([Path(environment.install)] if environment.install else [])]
