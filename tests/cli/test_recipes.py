"""Every command of docs/recipes.md and docs/tutorial.md, as it stands there, against two real servers; only shorter."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from engines.reference.server import ReferenceServer

DOCS = Path(__file__).parents[2] / "docs"
RECIPES = dict(re.findall(r"^## (.+?)\n```sh\n(.*?)```", (DOCS / "recipes.md").read_text(), re.MULTILINE | re.DOTALL))
RECIPES["tutorial"] = "".join(re.findall(r"^```sh\n(.*?)```", (DOCS / "tutorial.md").read_text(), re.MULTILINE | re.DOTALL))
PROGRAMS = {"bmp": "bytemlperf.app", "bmp-llm": "bytemlperf_llm.cli"}
SHORTER = {"--duration 60": "--duration 4", "--num-sessions 8": "--num-sessions 2", "--repeats 3": "--repeats 1 --duration 3"}
SHORTER |= {"--share 0.95": "--share 0.5 --max-requests 2200 --request-rate 200 --output-len 4 --confidence 0.8 --confirm 0"}
PAIR, TUTORIAL = ("http://127.0.0.1:8000", "http://127.0.0.1:8001"), ("http://127.0.0.1:8001", "http://127.0.0.1:8002")
FINDS_NOTHING = ("capacity",)
"""A search this short may resolve nothing: status 1."""


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
async def test_a_recipe_runs(name, tmp_path):
    async with ReferenceServer({"ttft_ms": "2", "itl_ms": "1"}) as first, ReferenceServer({"ttft_ms": "3", "itl_ms": "1"}) as second:
        text, addresses = RECIPES[name], TUTORIAL if name == "tutorial" else PAIR
        for address, server in zip(addresses, (first, second), strict=True):
            text = text.replace(address, server.url)
        for long, short in SHORTER.items():
            text = text.replace(long, short)
        for line in (line for line in text.splitlines() if not line.startswith(("#", "bmp-llm reference-server"))):
            command, _, result = re.fullmatch(r"(.*?)( > (\w+\.json))?", line).groups()
            program, *words = shlex.split(command)
            code = f"from {PROGRAMS[program]} import main; main()"
            ended = await asyncio.to_thread(
                subprocess.run, [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, check=False
            )
            assert "Traceback" not in ended.stderr
            assert ended.returncode in ((0, 1) if words[0] in FINDS_NOTHING or "--fail-if" in words else (0,)), line + ended.stderr
            if result:
                assert json.loads(ended.stdout)["outcomes"]["ok"] > 0
