"""The rules of a submission, each a function from what was read to findings. No file is read here.

The first rule is ByteMLPerf's: at least five models with all regular ones among them. The others
are what makes a result believable by someone else: whole runs that verify, a command and a seed, the
packages of the lock, the precision and the sparsity that were declared.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bytemlperf.errors import UserError
from bytemlperf.hardware import cards, measured
from bytemlperf.runs.kinds import PlannedJob
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
    """One run folder, as read for the rules. `problems` are what verify found; `unreadable` says why there is no `run`."""

    name: str
    run: dict[str, Any]
    verdict: str
    problems: Sequence[str]
    jobs: Sequence[PlannedJob]


def all_rules(declared: Declaration, runs: Sequence[RunRead], lock: str) -> list[Finding]:
    """Every finding, in the order of the rules."""
    return [
        *suites_present(declared, runs),
        *verified(runs),
        *complete(runs),
        *models(declared, runs),
        *reproducible(runs, lock),
        *as_declared(declared, runs),
        *on_the_device(declared, runs),
    ]


def suites_present(declared: Declaration, runs: Sequence[RunRead]) -> list[Finding]:
    """Every declared suite has a run, and no run is of another."""
    there = {str(run.run.get("kind")) for run in runs}
    missing = [f"no run of the suite {suite} below runs/" for suite in declared.suites if suite not in there]
    strangers = [
        (run.name, f"a run of {run.run.get('kind')}, which is not listed under suites")
        for run in runs
        if run.run.get("kind") not in declared.suites
    ]
    found = [Finding("problem", "suites", "runs/", text) for text in missing]
    found += [Finding("problem", "suites", name, text) for name, text in strangers]
    return found or [Finding("ok", "suites", "runs/", f"{len(runs)} runs of {', '.join(sorted(there))}")]


def verified(runs: Sequence[RunRead]) -> list[Finding]:
    """`verify` accepts every run folder."""
    bad = [Finding("problem", "verify", run.name, text) for run in runs for text in _few(run.problems)]
    return bad or [Finding("ok", "verify", "runs/", "every run is unchanged")]


def complete(runs: Sequence[RunRead]) -> list[Finding]:
    """Every run ended by itself, and its verdict is valid."""
    found = []
    for run in runs:
        end = run.run.get("end")
        if not end:
            found.append(Finding("problem", "complete", run.name, "the run has no end: it was killed"))
        elif end.get("stopped_by_user"):
            found.append(Finding("problem", "complete", run.name, "the run was stopped by the user"))
        elif end.get("failure"):
            found.append(Finding("problem", "complete", run.name, f"the run failed: {end['failure']}"))
        if run.verdict != "valid":
            found.append(Finding("problem", "complete", run.name, f"its verdict is {run.verdict or 'missing'}, not valid"))
    return found or [Finding("ok", "complete", "runs/", "every run completed and is valid")]


def models(declared: Declaration, runs: Sequence[RunRead]) -> list[Finding]:
    """At least five models measured at their published size, all regular ones among them."""
    if "general" not in declared.suites:
        return [Finding("ok", "models", "runs/", "no general runs are declared, so there are no models to count")]
    jobs = [(run.name, job) for run in runs for job in run.jobs]
    measured = {job.model for _, job in jobs if job.status == "ok" and job.size == PUBLISHED_SIZE}
    small = {job.model for _, job in jobs if job.size != PUBLISHED_SIZE} - measured
    failed = {job.model: job for _, job in jobs if job.status != "ok" and job.model not in measured}
    found = []
    if len(measured) < MIN_MODELS:
        found.append(Finding("problem", "models", "runs/", f"{len(measured)} models were measured, a submission has at least {MIN_MODELS}"))
    for name in REGULAR_MODELS:
        if name in measured:
            continue
        if name in failed:
            why = f"failed: {failed[name].reason or failed[name].status}"
        else:
            why = "was measured only at a smaller size" if name in small else "is not there"
        found.append(Finding("problem", "models", name, f"the regular model {name} {why}"))
    return found or [Finding("ok", "models", "runs/", f"{len(measured)} models, all {len(REGULAR_MODELS)} regular ones among them")]


def reproducible(runs: Sequence[RunRead], lock: str) -> list[Finding]:
    """A command, a seed, known source, and the packages that the lock pins."""
    pins = locked(lock)
    found = []
    if not pins:
        found.append(Finding("problem", "reproducible", "lock", "the lock pins no package with =="))
    for run in runs:
        environment = run.run.get("environment") or {}
        if not run.run.get("command"):
            found.append(Finding("problem", "reproducible", run.name, "run.json holds no command"))
        if not isinstance(run.run.get("seed"), int):
            found.append(Finding("problem", "reproducible", run.name, "run.json holds no seed"))
        packages = {_plain(name): str(version) for name, version in (environment.get("packages") or {}).items()}
        if not packages:
            found.append(Finding("problem", "reproducible", run.name, "run.json holds no package versions"))
        other = [
            f"{name} {version} ran, the lock has {pins[name]}"
            for name, version in sorted(packages.items())
            if name in pins and pins[name] != version
        ]
        found += [Finding("problem", "reproducible", run.name, text) for text in _few(other)]
        unpinned = sorted(set(packages) - set(pins) - {"bytemlperf-llm"})
        if pins and unpinned:
            found.append(Finding("problem", "reproducible", run.name, f"the lock doesn't pin {', '.join(unpinned[:MAX_LISTED])}"))
        if (environment.get("git") or {}).get("dirty"):
            found.append(Finding("warning", "reproducible", run.name, "the source tree had uncommitted changes"))
    return found or [Finding("ok", "reproducible", "runs/", "command, seed and packages are known, the lock's versions ran")]


def as_declared(declared: Declaration, runs: Sequence[RunRead]) -> list[Finding]:
    """No precision or sparsity but those declared, and every declared precision was run."""
    jobs = [(run.name, job) for run in runs for job in run.jobs]
    if not jobs:
        return [Finding("warning", "declared", "runs/", "these runs don't record precision and sparsity; only the declaration says them")]
    names = {cards.normal_dtype(each) for each in declared.precisions}
    ran = {cards.normal_dtype(job.precision) for _, job in jobs}
    found = [
        Finding("problem", "declared", "submission.yaml", f"the precision {each} ran and isn't declared") for each in sorted(ran - names)
    ]
    found += [
        Finding("problem", "declared", "submission.yaml", f"the precision {each} is declared and never ran") for each in sorted(names - ran)
    ]
    for name, job in jobs:
        if job.status == "ok" and not job.sparsity:
            found.append(Finding("problem", "declared", name, f"{job.name} has no record of its sparsity; run it again"))
        elif job.sparsity and not _as_sparse(job.sparsity, declared.sparsity):
            found.append(
                Finding("problem", "declared", name, f"{job.name} ran with sparsity {job.sparsity}, declared is {declared.sparsity}")
            )
    return found or [Finding("ok", "declared", "runs/", f"precisions {', '.join(sorted(ran))}, sparsity {declared.sparsity}")]


def _as_sparse(ran: str, declared: str) -> bool:
    """Whether both are the same sparsity: `32x` is 1:32, and says nothing of where the 32 lie (2:64 is it as well)."""
    if declared.endswith("x") and ":" in ran:
        kept, group = map(int, ran.split(":"))
        return group == kept * int(declared[:-1])
    return ran == declared


def on_the_device(declared: Declaration, runs: Sequence[RunRead]) -> list[Finding]:
    """Every run ran on one kind of machine, and where its card is sure, on the declared device."""
    found = []
    wanted, known = _card_name(declared.device), cards.load()
    for run in runs:
        stated = measured.stated(run.run, known)
        card = known[stated.card_id] if stated else cards.match(measured.hardware_of(run.run))
        if card is not None and card.name != wanted:
            found.append(Finding("problem", "device", run.name, f"ran on {card.name}, declared is {declared.device}"))
        elif stated is None and measured.is_remote(run.run):
            found.append(Finding("warning", "device", run.name, f"measured over HTTP, so its hardware isn't known: {measured.FIX}"))
    machines = sorted({_device_text(run) for run in runs if not measured.is_remote(run.run)})
    if len(machines) > 1:
        found.append(Finding("problem", "device", "runs/", f"runs are from several machines: {'; '.join(machines)}"))
    if not found and wanted is None:
        return [
            Finding(
                "warning",
                "device",
                "submission.yaml",
                f"no spec card knows {declared.device!r}: bmp hardware list shows those that are known",
            )
        ]
    return found or [Finding("ok", "device", "runs/", f"{declared.vendor} {declared.device}")]


def locked(text: str) -> dict[str, str]:
    """Pins of a requirements file, by normalised name: what stands before and after `==`."""
    found = re.findall(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*==\s*([^\s;#\\]+)", text, re.MULTILINE)
    return {_plain(name): version for name, version in found}


def _card_name(device: str) -> str | None:
    known = cards.load()
    try:
        return cards.find(device, known).name
    except UserError:  # an unknown device is a finding, not an error
        return None


def _device_text(run: RunRead) -> str:
    hardware = measured.hardware_of(run.run)
    gpus = [str(gpu.get("name")) for gpu in hardware.get("gpus") or ()]
    return f"{len(gpus)} × {gpus[0]}" if gpus else str((hardware.get("cpu") or {}).get("model"))


def _few(texts: Sequence[str]) -> list[str]:
    more = len(texts) - MAX_LISTED
    return [*texts[:MAX_LISTED], f"and {more} more"] if more > 0 else list(texts)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared_files(declared: Declaration) -> list[Path]:
    """The files that the declaration names, relative to the folder."""
    environment = declared.environment
    return [Path(environment.lock), *([Path(environment.install)] if environment.install else [])]
