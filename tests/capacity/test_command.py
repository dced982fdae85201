"""`bmp-llm capacity` on the reference engine, in this process: real load, real run folders."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from bytemlperf.errors import UserError
from bytemlperf.runs.suite import verify_suite
from bytemlperf_llm.capacity import command, probing
from bytemlperf_llm.capacity.result import read_capacity
from bytemlperf_llm.cli import app
from bytemlperf_llm.plan.plan import Plan
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.run.started import Started

SERVICE = ("--engine-option", "ttft_ms=1", "--engine-option", "itl_ms=0.2", "--engine-option", "slots=2", "--output-len", "8")
SEARCH = ("--engine", "reference", *SERVICE, "--goodput", "ttft:150", "e2el:200", "--share", "0.8", "--request-rate", "200", "--no-report")


def capacity(tmp_path: Path, *more: str) -> tuple[int, Path]:
    result = CliRunner().invoke(app, ["capacity", *SEARCH, "--runs-dir", str(tmp_path), *more])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, Path(result.stdout.strip().splitlines()[-1])


@pytest.fixture(autouse=True)
def _no_matter_how_busy_this_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "CLIENTS", ())


def test_a_search_ends_in_an_interval_of_ordinary_runs_and_goes_on(tmp_path: Path) -> None:
    status, folder = capacity(tmp_path, "--max-requests", "2400", "--quiet")
    found = read_capacity(folder)
    assert status == (0 if found.holds_at_rps else 1)
    assert found.holds_at_rps is None or found.fails_at_rps is None or found.holds_at_rps < found.fails_at_rps
    assert found.stopped_because in ("within", "requests")
    assert found.requests <= 2_400
    assert {row.folder for row in found.probes} == {path.name for path in folder.iterdir() if path.is_dir()}
    for row in found.probes:
        run = json.loads((folder / row.folder / "run.json").read_bytes())
        assert run["config"]["scenario"]["arrival"]["rate"] == row.rate_rps
        assert row.judged <= row.requests <= run["scheduled_requests"]
        assert not verify_suite(folder / row.folder).findings
    seeds = [json.loads((folder / row.folder / "run.json").read_bytes())["seed"] for row in found.probes]
    assert len(set(seeds)) == len(seeds)

    capacity(tmp_path, "--max-requests", "3000", "--quiet", "--resume", str(folder))
    after = read_capacity(folder)
    assert after.probes[: len(found.probes)] == found.probes
    assert after.requests <= 3_000
    with pytest.raises(UserError, match="other flags"):
        capacity(tmp_path, "--max-requests", "3000", "--resume", str(folder), "--input-len", "9")


@pytest.mark.parametrize(
    ("flags", "cause"),
    [
        (("--share", "0.9999", "--max-requests", "20000"), "needs at least .* requests a probe, .* in all, and --max-requests is 20,000"),
        (("--share", "1"), "no number of requests"),
        (("--within", "wide"), "is not a width"),
        (("--goodput", "ttft:0.5"), "even a lone request misses ttft:0.5: .* ms at best"),
        (("--engine-option", "fail_every=1"), "the first request fails"),
    ],
)
def test_what_cannot_be_answered_is_said_before_it_starts(tmp_path: Path, flags: tuple[str, ...], cause: str) -> None:
    with pytest.raises(UserError, match=cause):
        capacity(tmp_path, *flags)
    assert not list(tmp_path.iterdir())


def test_a_server_that_dies_ends_the_search_with_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = command.lone

    async def dies(started: Started, plan: Plan, place: int) -> RequestRecord:
        record = await answers(started, plan, place)
        return msgspec.structs.replace(record, outcome="failed") if place > 100 else record

    monkeypatch.setattr(command, "lone", dies)
    status, folder = capacity(tmp_path, "--max-requests", "2400", "--quiet")
    found = read_capacity(folder)
    assert (status, found.stopped_because) == (1 if found.holds_at_rps is None else 0, "server")
    assert len(found.probes) == 1  # the one during which it died is not judged
    assert "--resume" in "".join(str(section) for section in found.sections())
