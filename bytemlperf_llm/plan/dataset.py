"""What the dataset flags mean: they put a trace, or made-up prompts of a given length, in the place of
a scenario's own prompts. Names are those of `vllm bench serve` where it has the flag."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, get_args

from bytemlperf.checked import plain
from bytemlperf.errors import UserError, nearest
from bytemlperf_llm.plan.flags import Prompts
from bytemlperf_llm.plan.scenario import BUILTIN_FOLDER, TIMED_SESSIONS, UNTIMED_FORMATS, Scenario, SessionFormatName, TraceFormatName
from bytemlperf_llm.workload.token_counter import WORDS_RULE

SESSION_KEYS = ("answers", "time_scale", "block_tokens", "max_model_len", "on_too_long")
BUILTIN_TRACES = {
    "mooncake": "traces/mooncake-excerpt.jsonl",
    "azure": "traces/azure-code-2023-excerpt.csv",
    "weka": "traces/weka-excerpt.jsonl",
    "tracelab": "traces/tracelab-excerpt.jsonl",
}


def prompt_changes(flags: Prompts, scenario: Scenario) -> dict[str, Any]:
    """Overrides of `prompts` for the scenario. Raises UserError."""
    changes = _source(flags, scenario)
    if flags.tokenizer is not None:
        tokenizer = tokenizer_folder(flags.tokenizer)
        changes |= {f"{key}.tokenizer": tokenizer for key in scenario.all_prompts()}
    if flags.images is not None:
        changes["prompts.images"] = parse_images(flags.images)
    in_sessions = flags.dataset_name in get_args(SessionFormatName) or (
        flags.dataset_name is None and scenario.prompts.sessions is not None
    )
    traced = not in_sessions and (scenario.prompts.trace is not None or flags.dataset_name is not None)
    given = flags.settings(Prompts)
    if in_sessions:
        changes |= {f"prompts.sessions.{key}": given.pop(key)[1] for key in SESSION_KEYS if key in given}
    elif "answers" in given:
        raise UserError(f"--answers is for sessions, and scenario '{scenario.name}' has none", "take --scenario chat-multiturn")
    if flags.trace_window is not None:
        given["window_s"] = "--trace-window", parse_window(flags.trace_window)
    if flags.output_len is not None and traced:
        given["own_output_tokens"] = "--output-len", False
    if given and not traced:
        flag = next(iter(given.values()))[0]
        raise UserError(f"{flag} is for traces, and scenario '{scenario.name}' has none", "name one with --dataset-name and --dataset-path")
    return changes | {f"prompts.trace.{key}": value for key, (_, value) in given.items()}


def replays_times(flags: Prompts) -> bool:
    """Whether the command line names a trace that has times, so that they rule unless a rate is given."""
    untimed = (*UNTIMED_FORMATS, *(name for name in get_args(SessionFormatName) if name not in TIMED_SESSIONS))
    return flags.dataset_name is not None and flags.dataset_name not in untimed


def names_bounded(flags: Prompts) -> bool:
    """Whether the command line names a file that ends a run by itself."""
    return replays_times(flags) or flags.dataset_name in get_args(SessionFormatName)


def parse_images(text: str) -> dict[str, int]:
    """`WIDTHxHEIGHT` in pixels, or `WIDTHxHEIGHT*COUNT`. Raises UserError."""
    sizes = re.fullmatch(r"(\d{1,5})x(\d{1,5})(?:\*(\d{1,4}))?", text)
    if sizes is None:
        raise UserError(f"--images {text!r} is not a size", "give WIDTHxHEIGHT, or WIDTHxHEIGHT*COUNT, such as 512x512*2")
    return {"width": int(sizes[1]), "height": int(sizes[2]), "count": int(sizes[3] or 1)}


def parse_window(text: str) -> list[float | None]:
    """`START:END` in seconds, either side may be empty. Raises UserError."""
    start, colon, end = text.partition(":")
    try:
        window = [float(start or 0), float(end) if end else None]
    except ValueError:
        colon, window = "", []
    if not colon:
        raise UserError(f"--trace-window {text!r} is not a window", "give START:END in seconds of the trace, such as 0:300, :300 or 600:")
    return window


def _source(flags: Prompts, scenario: Scenario) -> dict[str, Any]:
    if flags.input_len is not None or flags.random_prefix_len is not None or flags.random_range_ratio is not None:
        return _made_up(flags, scenario)
    if flags.dataset_name is None:
        if flags.dataset_path is not None:
            raise UserError(
                "--dataset-path alone doesn't say what the file is", f"add --dataset-name: {', '.join(get_args(TraceFormatName))}"
            )
        return {}
    names = (*get_args(TraceFormatName), *get_args(SessionFormatName))
    if flags.dataset_name not in names:
        raise UserError(f"--dataset-name {flags.dataset_name!r} is unknown", nearest(flags.dataset_name, names))
    if flags.dataset_name in get_args(SessionFormatName):
        before = scenario.prompts.sessions
        kept = {"think_ms": plain(before)["think_ms"], "answers": before.answers} if before else {}
        sessions = {"format": flags.dataset_name, "file": _file(flags, scenario), **kept}
        return {"name": f"{scenario.name}-{flags.dataset_name}"[:64], "prompts": {"sessions": sessions}}
    trace = {"format": flags.dataset_name, "file": _file(flags, scenario)}
    return {"name": f"{scenario.name}-{flags.dataset_name}"[:64], "prompts": {"trace": trace}}


def _made_up(flags: Prompts, scenario: Scenario) -> dict[str, Any]:
    if flags.input_len is None:
        flag, needs = ("--random-prefix-len", "length of what follows") if flags.random_prefix_len else ("--random-range-ratio", "length")
        raise UserError(f"{flag} needs the {needs}", "add --input-len")
    if flags.dataset_name is not None or scenario.prompts.trace is not None:
        raise UserError("--input-len makes up prompts, and a trace has its own", "remove it, or take a scenario without a trace")
    tokens = lengths(flags.input_len, flags.random_range_ratio)
    return {"prompts": {"synthetic": {"tokens": tokens, "prefix_tokens": flags.random_prefix_len or 0}}}


def lengths(tokens: int, range_ratio: float | None) -> dict[str, Any]:
    """A scenario's distribution of lengths: uniform within `range_ratio` of `tokens`, as `vllm bench serve` draws them."""
    if not range_ratio:
        return {"distribution": "constant", "value": tokens}
    spread = {"min": max(1, math.floor(tokens * (1 - range_ratio))), "max": math.ceil(tokens * (1 + range_ratio))}
    return {"distribution": "uniform", **spread}


def _file(flags: Prompts, scenario: Scenario) -> str:
    """Relative where it comes with the package and the scenario does too, so that a run can be made again elsewhere."""
    if flags.dataset_path is not None:
        return str(flags.dataset_path.expanduser().absolute())
    builtin = BUILTIN_TRACES.get(flags.dataset_name or "")
    if builtin is None:
        raise UserError(f"--dataset-name {flags.dataset_name} needs the file", "add --dataset-path FILE")
    return builtin if scenario.folder == BUILTIN_FOLDER else str(BUILTIN_FOLDER / builtin)


def tokenizer_folder(name: str) -> str:
    """The folder that holds tokenizer.json, or the rule `words`. Raises UserError."""
    if name == WORDS_RULE:
        return name
    folder = Path(name).expanduser()
    if (folder / "tokenizer.json").is_file():
        return str(folder.absolute())
    from bytemlperf.models import resolve

    return str(resolve(name).path)
