"""What a run folder can't decide by itself: a folder is data, and may be a stranger's.

run.json names an address to send to, a key to send, options that run code, ports, files. `resume` and `serve-bench --config` take
none of them silently: they are confirmed on the command line (`--base-url` the address, `--trust` all of them) or refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.models.resolve import BUILT_IN
from bytemlperf.redaction import Redactor
from bytemlperf.runs import folder as runs
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.scenario import BUILTIN, scenario_of
from engines.contract import EngineInfo

NAMED = (
    *("launch", "base_url", "endpoint", "insecure", "api_key_file", "ray", "push_gateway", "otlp"),
    *(
        "trace_requests",
        "trace_port",
        "prometheus_port",
        "dashboard",
        "dashboard_port",
        "result_dir",
        "result_filename",
        "dataset_path",
        "tokenizer",
    ),
)
"""Flags that reach out, listen, write elsewhere, or read a file of this machine."""

_PLAIN = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?|true|false|auto|bfloat16|float16|float32")
_RUNS_CODE = "trust_remote_code"
_COMPARED = ("model", "device", "dtype", "versions")


def unconfirmed(flags: Mapping[str, Any], config: Mapping[str, Any], given: Collection[str] = ()) -> list[str]:
    """What run.json wants, with these flags in it, and a command line with these `given` flags doesn't confirm."""
    values = {**flags, "base_url": (flags["base_url"] or "").replace(" ", " --base-url ")}
    asked = [f"--{name.replace('_', '-')} {values[name]}" for name in NAMED if name not in given and _sensitive(name, flags[name])]
    if "engine_options" not in given:
        asked += [f"--engine-option {option}" for option in flags["engine_options"] if not _harmless(option)]
    model = flags["model"]
    if flags["engine"] != "openai" and "model" not in given and model is not None and model.partition(":")[0] not in BUILT_IN:
        asked.append(f"--model {model}")
    folder, files = config.get("scenario_folder", BUILTIN), list[PurePath]()
    for prompts in scenario_of({"config": config}).all_prompts().values():
        recorded = (source.file for source in (prompts.trace, prompts.sessions) if source is not None and source.file)
        files += map(PurePath, (*(prompts.files or ()), *recorded))  # they are sent to the server
    if folder != BUILTIN:
        return [*asked, *(f"the file {file} in {folder}" for file in files)]
    return [*asked, *(f"the file {file}" for file in files if file.is_absolute() or ".." in file.parts)]


def refuse_unconfirmed(flags: Flags, config: Mapping[str, Any], given: Collection[str]) -> None:
    """Raises UserError where run.json wants what this command line, with these `given` flags, doesn't confirm."""
    asked = unconfirmed(flags.recorded(), config, given)
    only_address = len(asked) == 1 and asked[0].startswith("--base-url ")
    runs.refuse_unconfirmed(asked, fix=f"confirm it: {asked[0]}" if only_address else runs.TRUST)


def refuse_other_address(kept: str | None, given: str | None) -> None:
    """A run has one server. Raises UserError where another address is given."""
    if given is not None and [*map(_plain, Redactor()(given).split())] != [*map(_plain, (kept or "").split())]:
        raise UserError(f"the run was against {kept}, not {given}", "another server needs a new run: bmp-llm serve-bench")


def refuse_other_engine(run: Mapping[str, Any], info: EngineInfo) -> None:
    """Raises UserError where what answers now is not what the run's records are of."""
    before, now = run.get("engine"), msgspec.to_builtins(info)
    if not isinstance(before, dict):
        raise UserError("run.json doesn't say which engine it was", "run again")
    for name in _COMPARED:
        if before.get(name) != now.get(name):
            raise UserError(
                f"the engine's {name} was {before.get(name)}, and is {now.get(name)}", "start a new run: a run has one engine and model"
            )


def _sensitive(name: str, value: object) -> bool:
    return value is not None and value is not False and not (name == "tokenizer" and value == "words")


def _harmless(option: str) -> bool:
    name, _, value = option.partition("=")
    return _PLAIN.fullmatch(value) is not None and not (name in (_RUNS_CODE, "insecure") and value != "false")


def _plain(url: str) -> tuple[object, ...]:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    return parts.scheme, parts.netloc.lower(), parts.path.rstrip("/"), parts.query
