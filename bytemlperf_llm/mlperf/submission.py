"""A submission folder of MLPerf Endpoints v1.0 (rules 8.1), written from the run folders of its points.

    <organization>/<submission>/
      src/bytemlperf-llm/README.md       how the points were run
      docs/README.md                     software, method, and what keeps this from being submitted
      results/<system>/system_power.json
      results/<system>/<model>/r<N>/     point.yaml, system_desc.json, result_summary.json, config.yaml, accuracy_results.json

Figures are over the steady window where there is an official one, else over the whole run; then the other stands beside them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml

from bytemlperf.errors import UserError
from bytemlperf.runs.folder import part, write_json, write_text
from bytemlperf.version import __version__
from bytemlperf_llm.mlperf.disclosure import Disclosure
from bytemlperf_llm.mlperf.point import Point
from bytemlperf_llm.mlperf.power import Power, system_power
from bytemlperf_llm.mlperf.regions import least_s, regions
from bytemlperf_llm.mlperf.seeds import SEED_SETS, runtime_seeds
from bytemlperf_llm.mlperf.shortfalls import NOT_SUBMITTABLE, Judged, precision_of, shortfalls
from bytemlperf_llm.mlperf.system import devices_of, system_description

SOURCE, DOCS = "src/bytemlperf-llm", "docs"


class Written(NamedTuple):
    """The folder, and by rule what keeps the checker or the rules from accepting it."""

    folder: Path
    shortfalls: dict[str, str]


def write_submission(points: Sequence[Point], disclosure: Disclosure, out: Path) -> Written:
    """Write it below `out`, which has none of the name yet. Raises UserError."""
    points = sorted(points, key=lambda point: point.concurrency)
    _check(points)
    root = out / disclosure.organization / disclosure.submission
    if root.exists():
        raise UserError(f"{root} is there already", "remove it, or give another --out")
    first, declared = points[0].run, points[0].declared
    c_max = disclosure.system.max_supported_concurrency or (declared and declared.max_concurrency) or points[-1].concurrency
    model = disclosure.model.name or _slug(str(part(first, "engine").get("model") or "model"))
    system_name = _slug(disclosure.system.name)
    devices = devices_of(first, disclosure)
    power = None if disclosure.power is not None else system_power(disclosure.system, system_name, devices)
    description = system_description(first, disclosure, devices, c_max)
    found = shortfalls(Judged(points, disclosure, description, devices, c_max, power))
    results = root / "results" / system_name
    try:
        for point in points:
            _write_point(results / model / f"r{point.concurrency}", point, points, disclosure, description, c_max, power)
        _write_power(results, disclosure, power)
        _write_text(root / SOURCE / "README.md", _source_text(points))
        _write_text(root / DOCS / "README.md", _docs_text(points, found))
    except OSError as error:
        raise UserError(f"can't write {error.filename or root}: {error.strerror}", "give a writable folder with --out") from None
    return Written(root, found)


def _check(points: Sequence[Point]) -> None:
    """One point a concurrency, all of one engine and model. Raises UserError."""
    if not points:
        raise UserError("no run is named", "name the run folders of the points, or a folder of them")
    for before, after in pairwise(points):
        if before.concurrency == after.concurrency:
            raise UserError(f"{before.folder.name} and {after.folder.name} are both at {after.concurrency} in flight", "leave one out")
    subjects = {(part(point.run, "engine").get("name"), part(point.run, "engine").get("model"), point.dataset_size) for point in points}
    if len(subjects) > 1:
        raise UserError("the runs are of several engines, models or data sets", "export each of them by itself")


def _write_point(
    folder: Path,
    point: Point,
    points: Sequence[Point],
    disclosure: Disclosure,
    description: Mapping[str, Any],
    c_max: int,
    power: Power | None,
) -> None:
    folder.mkdir(parents=True)
    highest = max(each.official.tps for each in points)
    write_json(folder / "system_desc.json", {**description, "tps_utilization": round(point.official.tps / highest, 6)})
    write_json(folder / "result_summary.json", _summary(point, None if power is None else power.kilowatts))
    c_min = min(each.concurrency for each in points)
    write_text(folder / "point.yaml", _yaml(_point_yaml(point, disclosure, c_max, c_min)))
    write_text(folder / "config.yaml", _yaml(part(point.run, "config")))
    if point.concurrency in disclosure.accuracy:
        write_json(folder / "accuracy_results.json", disclosure.file(disclosure.accuracy[point.concurrency]))


def _summary(point: Point, kilowatts: float | None) -> dict[str, Any]:
    official = point.official
    figures: dict[str, Any] = {
        "version": f"bytemlperf-llm {__version__}",
        "state": "complete",
        "complete": True,
        **msgspec.to_builtins(official),
        "basis": "steady_state" if point.windowed else "total",
        "system_tps": official.tps,
        "tps_per_user": official.tps_per_user,
        "ttft_p90_ms": official.ttft_p90_ms,
        "system_tps_per_kw": official.tps / kilowatts if kilowatts else None,
        "total": msgspec.to_builtins(point.total) if point.windowed else None,
        "note": NOT_SUBMITTABLE,
    }
    return {name: value for name, value in figures.items() if value is not None}


def _point_yaml(point: Point, disclosure: Disclosure, c_max: int, c_min: int) -> dict[str, Any]:
    model, dataset = disclosure.model, disclosure.dataset
    seed_set = point.seed_set
    bounds = regions(c_max, c_min)
    stated = {
        "concurrency": point.concurrency,
        "region": bounds.of(point.concurrency) if bounds else None,
        "dataset": dataset.name or point.scenario.name,
        "runtime_settings": {
            "load_pattern": "concurrency",
            "min_duration_ms": 0 if point.declared and point.declared.short else least_s(point.concurrency) * 1000,
            "min_sample_count": point.dataset_size,
            "stream_all_chunks": True,
            "runtime": runtime_seeds(point.seed, point.scenario.sampling.seed, seed_set),
        },
        "warmup": _warmup(point),
        "division": disclosure.division,
        "max_supported_concurrency": c_max,
        "model_name": model.name or _slug(str(part(point.run, "engine").get("model") or "model")),
        "model_precision": precision_of(point, disclosure),
        "link_to_model": model.link,
        "link_to_model_transformation": model.transformation,
        "model_notes": model.notes,
        "dataset_name": dataset.display_name or dataset.name or point.scenario.name,
        "dataset_type": dataset.type,
        "dataset_link": dataset.link,
        "offline": "elected" if point.concurrency == c_max else "none",
        "steady_state": msgspec.to_builtins(point.steady),
        "shared_src": SOURCE,
        "shared_docs": DOCS,
        "seed_set": seed_set,
        "target_cohort": disclosure.target_cohort or (SEED_SETS[seed_set].cohort if seed_set in SEED_SETS else None),
    }
    return {name: value for name, value in stated.items() if value is not None}


def _warmup(point: Point) -> dict[str, Any] | None:
    """None where the run had one and its length isn't known."""
    if point.scenario.warmup_requests:
        return None
    return {"duration_s": 0, "requests_issued": 0, "requests_completed": 0, "data_source": "none; warmup disabled", "concurrency": 0}


def _write_power(results: Path, disclosure: Disclosure, power: Power | None) -> None:
    path = results / "system_power.json"
    if disclosure.power is not None:
        write_json(path, disclosure.file(disclosure.power))
    elif power is not None:
        write_json(path, power.descriptor)


def _source_text(points: Sequence[Point]) -> str:
    commands = "\n".join(" ".join(map(str, point.run.get("command") or [])) for point in points)
    return f"# bytemlperf-llm {__version__}\n\nThe points were measured with these commands:\n\n```\n{commands}\n```\n"


def _docs_text(points: Sequence[Point], found: Mapping[str, str]) -> str:
    engine = part(points[0].run, "engine")
    versions = engine.get("versions") if isinstance(engine.get("versions"), dict) else {}
    software = "".join(f"- {name} {version}\n" for name, version in (versions or {}).items())
    missing = "".join(f"- `{rule}`: {text}\n" for rule, text in found.items())
    return f"# Software\n\n{software or '- not known: a server over HTTP'}\n\n# {NOT_SUBMITTABLE}\n\n{missing}"


def _yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def _slug(name: str) -> str:
    """As the rules spell a model's or a system's folder."""
    return re.sub(r"_+", "_", re.sub(r"[^\w-]", "_", name.split("/")[-1].strip())).strip("_")[:64] or "unnamed"
