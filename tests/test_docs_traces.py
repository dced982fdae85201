"""The page on traces names every format and flag, and its example loads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from bytemlperf.command.flags import fields_of
from bytemlperf_llm.plan import dataset as dataset_flags
from bytemlperf_llm.plan import scenario as scenarios
from bytemlperf_llm.plan.flags import Flags, Prompts
from bytemlperf_llm.trace.flags import RecordFlags
from bytemlperf_llm.workload.sessions.source import FORMATS as SESSION_FORMATS
from bytemlperf_llm.workload.traces import FORMATS

PAGE = (Path(__file__).parents[1] / "docs" / "traces.md").read_text(encoding="utf-8")


def test_the_page_names_every_format_and_every_flag():
    assert list(FORMATS) == list(get_args(scenarios.TraceFormatName))
    flags = [field.flag for field in fields_of(Prompts)]
    assert "--on-too-long" in flags
    for word in [*FORMATS, *flags]:
        assert word in PAGE
    known = {field.flag for field in (*fields_of(Flags), *fields_of(RecordFlags))}
    for flag in re.findall(r"(?<![\w-])--([a-z][a-z-]+)", PAGE):
        assert f"--{flag}" in known | {"--timed-trace-chunk-hash-size"}


def test_the_pages_example_loads(tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    (tmp_path / "mine.yaml").write_text(example, encoding="utf-8")
    loaded = scenarios.load(str(tmp_path / "mine.yaml"))
    assert loaded.prompts.trace is not None
    assert loaded.prompts.trace.window_s == (0.0, 600.0)


def test_the_package_brings_the_traces_that_flags_take_without_a_path():
    for form, file in dataset_flags.BUILTIN_TRACES.items():
        assert form in {**FORMATS, **SESSION_FORMATS}
        assert (scenarios.BUILTIN_FOLDER / file).is_file()
        assert Path(file).name in (scenarios.BUILTIN_FOLDER / "traces" / "README.md").read_text(encoding="utf-8")
