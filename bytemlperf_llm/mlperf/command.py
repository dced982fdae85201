"""`bmp-llm endpoints export`: a submission folder from run folders, and what keeps it from being accepted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from bytemlperf.command.console import print_sections, terminal
from bytemlperf.errors import UserError
from bytemlperf.runs.folder import read_run_json
from bytemlperf.runs.kinds import Section, Table, Text
from bytemlperf_llm.mlperf.disclosure import Disclosure, read_disclosure
from bytemlperf_llm.mlperf.flags import SubmissionFlags
from bytemlperf_llm.mlperf.kind import KIND_NAME, points_in
from bytemlperf_llm.mlperf.point import Point, read_point
from bytemlperf_llm.mlperf.regions import regions
from bytemlperf_llm.mlperf.shortfalls import NOT_SUBMITTABLE
from bytemlperf_llm.mlperf.submission import Written, write_submission


def export(runs: Sequence[Path], given: SubmissionFlags, *, quiet: bool = False) -> int:
    return submit(runs, given, read_disclosure(given.disclosure), quiet=quiet)


def submit(runs: Sequence[Path], given: SubmissionFlags, disclosure: Disclosure, *, quiet: bool) -> int:
    """Write the folder of these runs, and print it unless `quiet`; its path is the last line on standard output. Raises UserError."""
    size = given.dataset_size or disclosure.dataset.size
    points = sorted((read_point(folder, size) for folder in run_folders(runs)), key=lambda point: point.concurrency)
    written = write_submission(points, disclosure, given.out)
    if not quiet:
        print_sections(terminal(), sections(points, written))
    print(written.folder)
    return 0


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """The paths, of folders of points these, and of those that are no run the runs in them. Raises UserError."""
    found: list[Path] = []
    for path in paths:
        if (path / "run.json").exists():
            inside = points_in(path) if read_run_json(path).get("kind") == KIND_NAME else [path]
        else:
            inside = sorted(each.parent for each in path.glob("*/run.json"))
        if not inside:
            raise UserError(f"{path} holds no run folder", "name run folders, or the folder of `bmp-llm endpoints run`")
        found += inside
    return list(dict.fromkeys(found))


def sections(points: Sequence[Point], written: Written) -> Iterator[Section]:
    """A table of the points, and what is missing."""
    bounds = regions(points[-1].concurrency, points[0].concurrency)
    yield Table(
        title="Points",
        columns=("in flight", "region", "tokens/s", "tokens/s a user", "TTFT p90 ms", "at most", "verdict", "figures over", "requests"),
        rows=[_row(point, bounds.of(point.concurrency) if bounds else None) for point in points],
        note="p90 is the rules' (the lower of two samples); `at most` is its early-stopping estimate at 99 % confidence",
        spare=("at most", "requests", "region"),
    )
    rows = [(rule, text) for rule, text in written.shortfalls.items()]
    yield Table(title="What keeps it from being accepted", columns=("rule", "why"), rows=rows)
    yield Text(body=f"{NOT_SUBMITTABLE}. Check it with: endpoints-submission-cli check-submission {written.folder}")


def _row(point: Point, region: str | None) -> list[str | float | int | None]:
    official = point.official
    ttft = official.ttft
    bound = None if ttft is None or ttft.early_stopping_percentiles is None else ttft.early_stopping_percentiles["90.0"]
    window = point.steady.window
    over = f"passes {window.super_pass_start} to {window.super_pass_end}" if point.windowed else "whole run"
    return [
        point.concurrency,
        region or "",
        f"{official.tps:,.4g}",
        "" if official.tps_per_user is None else f"{official.tps_per_user:,.4g}",
        "" if official.ttft_p90_ms is None else f"{official.ttft_p90_ms:,.4g}",
        "insufficient" if bound is None else f"{bound / 1e6:,.4g}",
        point.steady.verdict,
        over,
        official.n_samples_completed,
    ]
