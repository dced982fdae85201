"""Every command of the docs can be pasted: in a block marked `sh`, with its comment behind `#`, and its command line is one that the
program takes. Those that need nothing but this machine for some seconds are run; the others say here why they aren't."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from bytemlperf.app import app as bmp
from bytemlperf_llm.cli import app as bmp_llm

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = {"bmp": bmp, "bmp-llm": bmp_llm}
CODE = {"bmp": "from bytemlperf.app import main", "bmp-llm": "from bytemlperf_llm.cli import main"}

NOT_RUN = {
    r"--engines? (vllm|openvino)|--check vllm|--launch": "loads an engine and its model",
    r"--base-url|--engine openai|--upstream|--ray|--metrics-url": "needs a server; recipes.md's run in test_recipes.py",
    r"--device cuda|megatron|gpt-857m|backend=mpi": "needs hardware or a library of its own",
    r"^bmp (general|train|convert|predict) (?!models|backends|workloads)": "minutes of computing; each is run in its suite's own tests",
    r"^bmp micro (?!list)": "minutes of computing; each is run in tests/micro",
    r"^bmp-llm (sweep|capacity|shootout|campaign|endpoints|serve-bench|doctor|reference-server|engine|resume|trace)": "a load of its own",
    r"\b(RUN|BASE|before|cold|small|large)\b|^bmp (compare A|runs|site|submit|export)|^bmp-llm quality": "needs runs",
}
"""By pattern, why a command that fits is only parsed."""


def commands() -> Iterator[tuple[str, str]]:
    """Page, and each command of its blocks of commands."""
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                for part in re.split(r"; |&& ", re.split(r" #| > [a-z]+\.json", line)[0]):
                    if part.split()[:1] and part.split()[0] in PROGRAMS:
                        yield page.name, part.strip()


COMMANDS = list(dict.fromkeys(commands()))
RUN = [(page, text) for page, text in COMMANDS if not any(re.search(pattern, text) for pattern in NOT_RUN)]


def test_commands_stand_in_blocks_that_can_be_pasted() -> None:
    wrong = []
    for page in PAGES:
        for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            if re.search(r"^(bmp|bmp-llm) ", block, re.MULTILINE):
                wrong += [f"{page.name}: {line}" for line in block.splitlines() if language != "sh" or re.search(r"…|\[\w+…?\]$", line)]
        wrong += [f"{page.name}: {line}" for line in re.findall(r"\n\n(    (?:bmp|bmp-llm) .*)", page.read_text())]
    assert wrong == []


@pytest.mark.parametrize(("page", "text"), COMMANDS)
def test_the_program_takes_the_command_line(page: str, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program, *words = shlex.split(text, comments=True)
    monkeypatch.chdir(tmp_path)
    command = typer.main.get_command(PROGRAMS[program])
    context = None
    while True:
        context = command.make_context(program, list(words), parent=context)
        left = [*getattr(context, "_protected_args", []), *context.args]
        if not left or not hasattr(command, "resolve_command"):
            break
        program, command, words = command.resolve_command(context, left)


@pytest.mark.slow
@pytest.mark.parametrize(("page", "text"), RUN)
def test_what_needs_nothing_else_runs(page: str, text: str, tmp_path: Path) -> None:
    program, *words = shlex.split(text, comments=True)
    done = subprocess.run(
        [sys.executable, "-c", f"{CODE[program]}; main()", *words], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
