"""`bmp-llm campaign FILE`: its runs one after the other, each in a process of its own, a record each; then one page, table and gate."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.checked import plain
from bytemlperf.child.process import Child, death, environment
from bytemlperf.command.console import sayer
from bytemlperf.command.signals import Interrupted, interrupt_status
from bytemlperf.errors import UserError
from bytemlperf.redaction import Redactor, option_secrets
from bytemlperf.report.gather import view_run
from bytemlperf.report.terminal import publish
from bytemlperf.runs.folder import part
from bytemlperf.runs.suite import SuiteRun
from bytemlperf_llm.campaign.file import Campaign
from bytemlperf_llm.campaign.flags import CampaignFlags
from bytemlperf_llm.campaign.jobs import Job, jobs_of, order_of, stated
from bytemlperf_llm.campaign.kind import KIND_NAME
from bytemlperf_llm.campaign.order import Order
from bytemlperf_llm.campaign.records import JobRecord, last_of_each
from bytemlperf_llm.campaign.worker import Ended
from bytemlperf_llm.sweep.row import devices_of, level_of

LOGS = "logs"


def run_campaign(campaign: Campaign, asked: CampaignFlags, argv: list[str]) -> int:
    """Do all of it, or what is left; the exit status. Its folder's path is the last line on standard output. Raises UserError, or
    Interrupted."""
    say = sayer(quiet=asked.quiet)
    run = _open(campaign, asked, ["bmp-llm", *argv[1:]])
    try:
        with run:
            Drive(campaign, run, say).all()
            summary = run.end()
    except KeyboardInterrupt:
        hint = f"the runs so far are kept; resume with the same command and --resume {run.folder}"
        raise Interrupted(interrupt_status() - 128, hint) from None
    return publish(run.folder, summary, asked, run=run.run, records=run.records())


def _open(campaign: Campaign, asked: CampaignFlags, command: list[str]) -> SuiteRun:
    """A new folder, or one to go on with. Raises UserError where that is another campaign's."""
    options = [order_of(campaign, Job(engine=engine)).plan().engine.options for engine in range(len(campaign.engines))]
    redactor = Redactor(secret for each in options for secret in option_secrets(each))
    gate = [*campaign.fail_if, *asked.fail_if]
    kept: Any = redactor.deep(plain(msgspec.structs.replace(campaign, fail_if=())))
    if asked.resume is None:
        label = asked.label or campaign.name
        config = {"campaign": kept, "fail_if": gate, "jobs": [job.key(campaign) for job in stated(campaign)]}
        return SuiteRun.begin(asked.runs_dir, KIND_NAME, label, config, command=command, seed=campaign.seed, redactor=redactor)
    run = SuiteRun.open(asked.resume, KIND_NAME)
    if part(run.run, "config").get("campaign") != kept:
        raise UserError(f"{asked.resume} is of another campaign", "give the file and flags that it was started with; see its run.json")
    run.run["config"]["fail_if"] = gate
    run.go_on(command=command, redactor=redactor)
    return run


class Drive:
    """The runs of a campaign, one after the other. What goes wrong with one is its record."""

    def __init__(self, campaign: Campaign, run: SuiteRun, say: Callable[[str], None]) -> None:
        self._campaign, self._run, self._say = campaign, run, say
        self._records = last_of_each(run.records())

    def all(self) -> None:
        """Each that has no good record yet."""
        campaign, jobs = self._campaign, jobs_of(self._campaign)
        started = False
        for number, job in enumerate(jobs, start=1):
            before = self._records.get(job.key(campaign))
            if before is not None and before.status == "ok":
                continue
            if started:
                time.sleep(campaign.cool_down_s)
            started = True
            self._say(f"[{number}/{len(jobs)}] {job.name(campaign)}")
            record = self._measured(job, number)
            self._records[record.key] = record
            self._run.append(record)
            self._say(f"[{number}/{len(jobs)}] {job.name(campaign)}: {record.reason if record.status == 'failed' else record.verdict}")

    def _measured(self, job: Job, number: int) -> JobRecord:
        campaign = self._campaign
        order = order_of(campaign, job, self._found_rate(job))
        order.flags["runs_dir"] = str(self._run.folder)
        began_s = time.monotonic()
        ended = run_child(order, self._run.folder / LOGS / f"{number:03}.log", campaign.time_limit_s)
        engine, scenario, load, repeat = job.key(campaign)
        about = {
            "engine": engine,
            "scenario": scenario,
            "load": load,
            "repeat": repeat,
            "seed": order.flags["seed"],
            "ended_unix_ns": time.time_ns(),
        }
        wall_s = round(time.monotonic() - began_s, 3)
        if ended.error:
            return JobRecord(**about, status="failed", reason=ended.error, wall_s=wall_s)  # type: ignore[arg-type]
        view = view_run(Path(ended.folder), sections=False)
        return JobRecord(
            **about,  # type: ignore[arg-type]
            run=view.folder.name,
            verdict=view.verdict,
            reasons=view.reasons,
            schedule_sha256=str(view.run.get("schedule_sha256") or ""),
            level=level_of(view.run),
            devices=devices_of(view.run),
            found_rate=part(view.run, "config").get("probe") is not None,
            wall_s=wall_s,
            figures=[msgspec.structs.replace(figure, samples=(), sample_ids=(), statistic="") for figure in view.figures],
        )

    def _found_rate(self, job: Job) -> float | None:
        """What `auto` was found to be by the first engine that ran this scenario and load: the others get the same schedule."""
        _, scenario, load, _ = job.key(self._campaign)
        records = (record for record in self._records.values() if (record.scenario, record.load) == (scenario, load))
        return next((record.level.rate_rps for record in records if record.found_rate), None)


def run_child(order: Order, log: Path, limit_s: float) -> Ended:
    """One run in a process of its own, which is gone afterwards, on KeyboardInterrupt too. What its libraries said stays in `log`
    where it failed."""
    log.parent.mkdir(exist_ok=True)
    arguments = ["-X", "faulthandler", "-m", "bytemlperf_llm.campaign.worker"]
    with log.open("w+b") as file, Child(arguments, environment(), file) as child:
        child.send(msgspec.json.encode(order), last=True)
        try:
            line = child.line(time.monotonic() + limit_s)
        except TimeoutError:
            return Ended(error=f"no end after {limit_s:g} s; raise time_limit_s, or look at {log}")
        if line is None:
            status = child.status()
            why = "it ended without a word" if not status else death(status, child.last_words())
            return Ended(error=f"its process died: {why}; look at {log}")
    ended = msgspec.json.decode(line, type=Ended)
    if not ended.error:
        log.unlink()
    return ended
