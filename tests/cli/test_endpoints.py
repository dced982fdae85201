"""Other ways to ask than a chat in words: prompts as token ids, through the command line and over a real server."""

from __future__ import annotations

import json

from tests.cli.helpers import bmp, run_folder, started_server

ASK = ("serve-bench", "--engine", "openai", "--scenario", "smoke", "--num-warmups", "0", "--request-rate", "50", "--num-prompts", "8")


def test_token_ids_are_sent_at_their_exact_length_and_refused_by_a_chat(tmp_path):
    words = (*ASK, "--input-len", "40", "--random-prefix-len", "8", "--output-len", "5", "--tokenize-prompt", "--base-url")
    with started_server("ttft_ms=2") as url:
        ended = bmp(*words, url, "--endpoint", "/v1/completions", cwd=tmp_path)
        refused = bmp(*words, url, cwd=tmp_path)
    folder = run_folder(ended.stdout, tmp_path)
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert [(record["prompt_tokens"], record["output_tokens"]) for record in records] == [(48, 5)] * 8
    assert "exact: token ids" in json.loads((folder / "run.json").read_text())["prompts"]["lengths"]
    assert bmp("verify", str(folder), cwd=tmp_path).returncode == 0
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.splitlines()[-1] == (
        "error: this endpoint takes text, not token ids; add --endpoint /v1/completions, or leave out --tokenize-prompt"
    )
