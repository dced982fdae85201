"""Several runs below one folder, on engines that start once for all of them: a new folder or one that goes on, until all is done or
somebody stops it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bytemlperf.command.console import sayer
from bytemlperf.command.signals import interrupt_status
from bytemlperf.errors import UserError
from bytemlperf.redaction import Redactor, option_secrets
from bytemlperf.report.terminal import publish
from bytemlperf.runs.suite import SuiteRun
from bytemlperf_llm.calibration.first import calibrate_first
from bytemlperf_llm.loadgen.loops import loop_factory
from bytemlperf_llm.plan.plan import Plan
from bytemlperf_llm.run.description import REPORTED_PACKAGES, described_engine
from bytemlperf_llm.run.started import Started
from bytemlperf_llm.run.trust import refuse_other_engine


class Driver(ABC):
    """`status` is the exit status of a stop by the user, `stopped_because` what the folder says of the end, if anything."""

    status = 0
    stopped_because = ""

    def __init__(self, kind: str, plans: Sequence[Plan], argv: Sequence[str], resume: Path | None) -> None:
        """The first plan says where the folder is. Raises UserError."""
        self._plan, self._argv = plans[0], ["bmp-llm", *argv[1:]]
        self._redactor = Redactor(secret for plan in plans for secret in option_secrets(plan.engine.options))
        self._say = sayer(quiet=self._plan.output.run.quiet, clean=self._redactor)
        self._resumed, output = resume is not None, self._plan.output
        self.suite = SuiteRun.reserve(output.run.runs_dir, kind, output.label) if resume is None else SuiteRun.open(resume, kind)

    @abstractmethod
    async def run(self) -> None:
        """All runs; the folder is written from `_open` on. Raises UserError."""

    def drive(self) -> dict[str, Any]:
        """Run, and end the folder; its summary. Raises UserError, and KeyboardInterrupt before the folder is written."""
        if not self._resumed:
            calibrate_first(self._plan, self._say)
        with self.suite as suite:
            try:
                with asyncio.Runner(loop_factory=loop_factory()) as runner:
                    runner.run(self.run())
            except KeyboardInterrupt:  # between two runs
                if not suite.begun:
                    raise
                self.status, self.stopped_because = interrupt_status(), "interrupted"
            except UserError as error:
                suite.fail(error.cause)
                raise
            facts: dict[str, Any] = {"stopped_because": self.stopped_because} if self.stopped_because else {}
            return suite.end(stopped=bool(self.status), report=self._plan.output.report, **facts)

    def published(self) -> int:
        """`drive`, and print what came of it; the folder's path is the last line on standard output. The exit status."""
        summary = self.drive()
        status = publish(self.suite.folder, summary, self._plan.output.run, run=self.suite.run, records=self.suite.records())
        return self.status or status

    def _refuse_other_flags(self, before: object, now: object) -> None:
        """Raises UserError where the folder was made by others."""
        if before != now:
            raise UserError(f"{self.suite.folder} was made with other flags", "give those of its own command again; see its run.json")

    def _open(self, started: Started, config: dict[str, Any], *, one_engine: bool = True) -> None:
        """Write the folder from now on. Raises UserError where it goes on with another engine, unless the command has several."""
        suite = self.suite
        if self._resumed:
            if one_engine:
                refuse_other_engine(suite.run, started.info)
            suite.run["config"] = config
            suite.go_on(command=self._argv, redactor=self._redactor)
            return
        engine = described_engine(started.info, self._plan.engine.name)
        about: dict[str, Any] = {"packages": REPORTED_PACKAGES, "versions": started.info.versions, "more": {"engine": engine}}
        suite.describe(config, command=self._argv, seed=self._plan.load.seed, redactor=self._redactor, **about)
