"""Reading workload files: ByteMLPerf's and xpu-perf's JSON and CSV, unchanged.

Old JSON: the file's stem is the operator, `{"cases": [case, …]}`. New: `{"op": [case, …], …}`. A case's
lists expand to their Cartesian product; a dotted key (`"K.N": [[a, b], …]`) zips its arguments; a key
that begins `__` is a comment. A case whose `arg_type` is a batch (`batch_llm`) is one case as it stands: its lists
are lengths by sequence. CSV: one case a row, the operator in `task_name` or else the file's stem.

What can't be asked is a case with a refusal: one that doesn't expand, a placeholder (`{"to_be_implemented": true}`),
ByteMLPerf's layout of 2024 (`{"operator": …, "input_shape_groups": …}`), and below a folder a file that can't be read.

What ByteMLPerf's workload files call otherwise than the operators here, and what of them changes nothing.

ByteMLPerf's attention has `mode` and `q_seq_len`; its session caches give the new tokens of all sequences together. Lengths
that it draws within 10 % of a mean are the mean here. Its experts are spread by `world_size` and `rank`, shared ones by
`dp_size` and `sp_size`, which change nothing where there are none. xpu-perf's tables of cache blocks say where a sequence lies,
not what is computed: blocks lie in random order here.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from itertools import product
from math import prod
from pathlib import Path
from typing import NamedTuple

from bytemlperf.errors import UserError
from bytemlperf.runs.files import read_plain
from engines.untrusted import decode_json
from micro.cases.case import FORMAT_ARGUMENTS, Arguments, BadCase
from micro.operators.contract import Args, Operator

COMMENT = "__"
MAX_CASES = 100_000
"""Cases of one file; beyond that a product has most likely gone astray."""


class RawCase(NamedTuple):
    """Not yet validated. `source` is the file's name; `refusal` why it is no case that could be tried."""

    op: str
    args: Arguments
    source: str
    refusal: str = ""


def read_workloads(path: Path) -> list[RawCase]:
    """A file, or every .json and .csv below a folder in the order of their names. Raises UserError."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in (".json", ".csv") and file.is_file())
        if not files:
            raise UserError(f"{path} holds no .json or .csv workload", "name a workload file, or a folder of them")
        return [case for file in files for case in _of_folder(file, path)]
    try:
        text = read_plain(path.resolve()).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"workload {path} can't be read: {reason}", "name a .json or .csv file, or a folder of them") from None
    if not text.strip():
        return [RawCase(path.stem, {}, path.name, "the file is empty")]
    cases = list(_csv_cases(path, text) if path.suffix == ".csv" else _json_cases(path, text))
    if not cases:
        raise UserError(f"workload {path} has no cases", 'give {"cases": [{…}]} or {"operator": [{…}]}')
    return cases


def _of_folder(file: Path, folder: Path) -> list[RawCase]:
    try:
        return read_workloads(file)
    except UserError as error:
        return [RawCase(file.stem, {"file": str(file.relative_to(folder))}, file.name, error.cause)]


def expand(case: Args) -> Iterator[Arguments]:
    """Every combination of a case's lists, dotted keys zipped; a batch as it stands. Raises ValueError with a sentence."""
    if "batch" in str(case.get("arg_type", "")):
        yield {key: value for key, value in case.items() if not key.startswith(COMMENT)}
        return
    axes: list[list[Arguments]] = []
    for key, value in case.items():
        if not key.startswith(COMMENT):
            axes.append(_axis(key, value))
    if prod(len(axis) for axis in axes) > MAX_CASES:
        raise ValueError(f"the lists multiply to more than {MAX_CASES} cases")
    for choice in product(*axes):
        yield {name: value for part in choice for name, value in part.items()}


def _axis(key: str, value: object) -> list[Arguments]:
    names = key.split(".")
    if len(names) == 1:
        return [{key: part} for part in (value if isinstance(value, list) else [value])]
    rows = value if isinstance(value, list) else []
    if rows and not isinstance(rows[0], list):
        rows = [rows]  # one row written without its brackets
    for row in rows:
        if not isinstance(row, list) or len(row) != len(names):
            raise ValueError(f"'{key}' needs lists of {len(names)} values, one for each name; found {json.dumps(row)}")
    if not rows:
        raise ValueError(f"'{key}' needs a list of lists of {len(names)} values")
    return [dict(zip(names, row, strict=True)) for row in rows]


def _json_cases(path: Path, text: str) -> Iterator[RawCase]:
    try:
        content = decode_json(text)
    except ValueError as error:
        raise UserError(f"workload {path} is not JSON: {error}", "fix the file") from None
    if not isinstance(content, dict):
        raise UserError(f"workload {path} is not a JSON object", 'give {"cases": [{…}]} or {"operator": [{…}]}')
    parts = {name: part for name, part in content.items() if not name.startswith(COMMENT)}
    placeholder = _placeholder(parts)
    if placeholder:
        yield RawCase(path.stem, {}, path.name, placeholder)
        return
    for name, cases in parts.items():
        if name == "type" and "cases" in parts:
            continue
        op = path.stem if name == "cases" else name
        if not isinstance(cases, list) or not all(isinstance(case, dict) for case in cases):
            raise UserError(f"workload {path}: '{name}' is not a list of cases", 'a case is an object: {"dtype": "float32", …}')
        for case in cases:
            try:
                yield from (RawCase(op, args, path.name) for args in expand(case))
            except ValueError as error:
                yield RawCase(op, case, path.name, str(error))


def _placeholder(parts: Args) -> str:
    """Why a file of that format holds no case, "" where it may hold some."""
    if isinstance(parts.get("operator"), str):
        return f"its layout is ByteMLPerf's before 2025 ('operator': '{parts['operator']}'), which is not read; write {{\"cases\": […]}}"
    if parts and all(isinstance(part, bool | str) for part in parts.values()):
        return f"a placeholder without cases ('{next(iter(parts))}')"
    return ""


def _csv_cases(path: Path, text: str) -> Iterator[RawCase]:
    rows = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise UserError(f"workload {path}, line {number}: fewer or more cells than the header", "fix the file")
        args = {name: _cell(value) for name, value in row.items() if value != "" and not name.startswith(COMMENT)}
        yield RawCase(str(args.pop("task_name", path.stem)), args, path.name)


def _cell(text: str) -> object:
    """A number, a JSON list, or the text."""
    try:
        value = decode_json(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float | list) else text


SEQUENCE_NAMES = {"mode": "attn_mode", "phase": "attn_mode", "q_seq_len": "q_len"}
SESSION = "prefill_session_cache"
MOST_SEQUENCES = 1 << 20
PLACES = ("block_table", "slot_mapping")


def translated(operator: Operator, given: Args) -> Arguments:
    """A workload file's arguments by the operator's own names. Raises BadCase for what isn't measured."""
    names = {argument.name for argument in operator.arguments}
    args = {name: value for name, value in given.items() if name not in FORMAT_ARGUMENTS}
    if "q_lens" in names:
        args = _sequences(names, args)
    if "ep_rank" in names:
        args = _experts(names, args)
    if operator.name == "store_kv_cache" and "dst_dtype" in args:
        args["cache_dtype"] = args.pop("dst_dtype")
    if operator.name == "moe_softmax_topk":
        args.pop("hidden_size", None)  # of the product before it
    if operator.name == "softmax" and "kv_seq_len" in args:
        args = _scores(args)
    if "trans_w" not in names and args.get("trans_w") is True:
        del args["trans_w"]  # weights lie as [new_hidden_size, hidden_size] in any case
    return args


def _scores(given: Arguments) -> Arguments:
    """Attention's scores as rows: one for each sequence, head and new token."""
    args = {name: value for name, value in given.items() if name != "phase"}
    keys = args.pop("kv_seq_len")
    sizes = [args.pop(name, 1) for name in ("batch_size", "head_num", "q_seq_len")]
    if not all(isinstance(size, int) and 1 <= size <= MOST_SEQUENCES for size in sizes):
        raise BadCase(f"batch_size, head_num and q_seq_len are not sizes: {sizes}")
    return {**args, "batch_size": math.prod(sizes), "dim_size": keys}


def _sequences(names: set[str], given: Arguments) -> Arguments:
    args = {SEQUENCE_NAMES.get(name, name): value for name, value in given.items() if name not in PLACES}
    if "compute_dtype" in args and "qk_compute_dtype" in names:
        args["qk_compute_dtype"] = args["pv_compute_dtype"] = args.pop("compute_dtype")
    if "block_size" not in names:
        args.pop("block_size", None)  # rotary_embedding touches no cache
    if isinstance(args.get("kv_seq_len"), int) and isinstance(args.get("q_len"), int):
        args["cache_len"] = args.pop("kv_seq_len") - args["q_len"]
    if args.get("attn_mode") == SESSION:
        args |= {"attn_mode": "prefill", **_session(args)}
    if "attn_mode" not in names and args.get("attn_mode") == "decode":
        del args["attn_mode"]  # flash_decoding says so itself
    return args


def _session(args: Args) -> Arguments:
    """`q_len` new tokens in all, divided among the sequences."""
    total, sequences = args.get("q_len"), args.get("batch_size", 1)
    if not isinstance(total, int) or not isinstance(sequences, int) or not 1 <= sequences <= min(total, MOST_SEQUENCES):
        raise BadCase(f"{SESSION} needs a q_seq_len of at least one token for each of batch_size={sequences} sequences, not {total}")
    share, more = divmod(total, sequences)
    if not more:
        return {"q_len": share}
    return {"q_lens": [share + (sequence < more) for sequence in range(sequences)], "cache_lens": [args.get("cache_len", 0)] * sequences}


def _experts(names: set[str], given: Arguments) -> Arguments:
    args = dict(given)
    shared = args.pop("num_shared_experts", 0)
    if shared:
        raise BadCase(f"num_shared_experts={shared}: shared experts are not measured; moe_quant_matmul is their product")
    world = args.pop("world_size", args.get("ep_size", 1))
    if args.setdefault("ep_size", world) != world:
        raise BadCase(f"world_size={world} is not ep_size={args['ep_size']}")
    if "rank" in args:
        args["ep_rank"] = args.pop("rank")
    unused = {"dp_size", "sp_size"} - names
    return {name: value for name, value in args.items() if name not in unused}
