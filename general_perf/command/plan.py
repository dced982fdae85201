"""From flags to jobs: everything is checked before the first process starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.child.limits import memory_to_plan_with, threads_for
from bytemlperf.command.flags import parse_bytes
from bytemlperf.errors import UserError
from general_perf.backends.registry import check_names, check_options
from general_perf.card import CLASSES, Card, find_cards
from general_perf.choices import PUBLISHED, check_calls
from general_perf.command.flags import Flags
from general_perf.job.records import Job, job_id
from general_perf.zoo.bytemlperf_files import read_workload, unread, workload_files
from general_perf.zoo.sparsify import kind_of

MEMORY_SHARE = 0.8
"""Of the memory available at the start, what a job may take unless told otherwise."""


class Selected(msgspec.Struct, kw_only=True):
    """One card with what a workload file says of it beside the flags."""

    card: Card
    batch_sizes: tuple[int, ...]
    weights: str | None
    flags: Flags
    failed: tuple[str, str, str] | None = None


def plan(flags: Flags) -> list[Job]:
    """The jobs, model by model. Raises UserError for anything that can be told wrong now."""
    _check(flags)
    backends = check_names(flags.backends)
    check_options(backends, flags.backend_options)
    precisions = dict.fromkeys(flags.precisions)
    jobs = [_job(selected, backend, precision) for selected in selected_cards(flags) for backend in backends for precision in precisions]
    names = [job.id for job in jobs]
    if len(set(names)) != len(names):
        raise UserError("two models have the same name", "rename one card")
    return jobs


def selected_cards(flags: Flags) -> list[Selected]:
    """The cards at their sizes, zoo cards and ByteMLPerf's own files alike. Raises UserError."""
    selection: list[Selected] = []
    for name in flags.models:
        if files := workload_files(name):
            selection += [_of_workload(path, flags, alone=not Path(name).is_dir()) for path in files]
            continue
        for card in find_cards(name):
            size = flags.size if flags.size in card.sizes or name not in ("all", *CLASSES) else PUBLISHED
            sized = card.at_size(size, {key: value for key, value in flags.dims.items() if key in card.dims or len(flags.models) == 1})
            sizes = tuple([sized.fixed_batch] if sized.fixed_batch and not flags.batch_sizes else flags.batch_sizes or sized.batch_sizes)
            selected = Selected(card=sized, batch_sizes=sizes, weights=_absolute(flags.weights), flags=flags)
            if selected not in selection:  # `bert regular` names bert twice
                selection.append(selected)
    return selection


def _of_workload(path: Path, flags: Flags, *, alone: bool) -> Selected:
    """A pair of ByteMLPerf's; one of a folder that can't be read is a row too. Raises UserError where it was named alone."""
    try:
        read = read_workload(path, None if flags.weights is None else str(flags.weights), random_weights=flags.random_weights)
    except UserError as error:
        if alone:
            raise
        return Selected(
            card=unread(path), batch_sizes=(1,), weights=None, flags=flags, failed=("unsupported_format", error.cause, error.fix)
        )
    sizes = tuple(flags.batch_sizes or read.workload.batch_sizes)
    return Selected(
        card=read.card, batch_sizes=sizes, weights=_absolute(read.weights), flags=apply_workload(flags, read.workload), failed=read.failed
    )


def _absolute(path: Path | str | None) -> str | None:
    """A run may be resumed from another folder."""
    return None if path is None else str(Path(path).expanduser().absolute())


def apply_workload(flags: Flags, workload: Any) -> Flags:
    """The flags with what ByteMLPerf's workload file says, where no flag says otherwise. They are that model's alone."""
    dropped = {"performance": not workload.test_perf, "accuracy": not workload.test_accuracy, "numerics": not workload.test_numeric}
    if workload.compile_only:
        dropped |= {"performance": True, "accuracy": True, "numerics": True}
    return flags.changed(
        iterations=workload.iterations if flags.iterations is None else flags.iterations,
        instances=(workload.clients,) if workload.clients and flags.instances == (1,) else flags.instances,
        stages=tuple(stage for stage in flags.stages if not dropped.get(stage)),
        data_percent=workload.data_percent,
    )


def _job(selected: Selected, backend: str, precision: str) -> Job:
    card, flags = selected.card, selected.flags
    size = flags.size if flags.size in card.sizes else PUBLISHED
    limit = memory_to_plan_with() * MEMORY_SHARE if flags.memory_limit is None else parse_bytes("--memory-limit", flags.memory_limit)
    resolved = {
        "id": job_id(card.name, size, backend, precision),
        "attempt": 1,
        "card": card,
        "size": size,
        "backend": backend,
        "precision": precision,
        "threads": flags.threads or threads_for(max(flags.instances)),
        "instances": tuple(sorted(set(flags.instances))),
        "batch_sizes": tuple(sorted(set(selected.batch_sizes))),
        "stages": tuple(dict.fromkeys(("compile", "load", *flags.stages))),
        "loops": tuple(dict.fromkeys(flags.loops)),
        "rate": flags.request_rate,
        "accuracy_samples": min(flags.accuracy_samples, card.dataset_samples or flags.accuracy_samples),
        "memory_limit_bytes": int(limit),
        "weights": selected.weights,
        "failed": selected.failed,
        "work": "",
        "reference": "",
    }
    return Job(**flags.shared_with(Job) | resolved)


def _check(flags: Flags) -> None:
    if not flags.models:
        raise UserError("no model was named", "name some, or all; see `bmp general models`")
    if flags.loops == ("open",) and flags.request_rate is None:
        raise UserError("an open loop alone has no rate", "give --request-rate, or --loop closed --loop open")
    check_calls(flags.request_rate, flags.seconds)
    if flags.sparsity:
        kind_of(flags.sparsity)
    if flags.random_weights and not any(workload_files(name) for name in flags.models):
        raise UserError("--random-weights goes with a ByteMLPerf workload", "leave it out: cards say what weights they take")
    if flags.weights is not None and (len(flags.models) != 1 or flags.models[0] in ("all", *CLASSES)):
        raise UserError("--weights goes with one model", "name one model")
