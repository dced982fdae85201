"""Answers counted again with the served model's tokenizer, as a user sees it: SmolLM2's, real sockets, and a server that
says the truth of its tokens or doesn't."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bytemlperf.errors import UserError
from bytemlperf.models import resolve
from tests.cli.helpers import CLOSED_SCENARIO, bmp, run_folder, start, wait_for_records
from tests.runs.reading import read_records

TEXT = (
    "The tide turned before noon, and the harbour emptied faster than the crew had reckoned. They set the mainsail, "
    "counted 1,284 crates twice, and argued (quietly) about who had signed for the missing ones: nobody remembered. "
)
CANARY = "sk-canary-recount-51d2"
RAN = (0, 1)  # a machine that is busy with something else may make a run invalid


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_folder()


def tokenizer_folder():
    """SmolLM2's folder."""
    try:
        model = resolve("smollm2")
    except UserError as error:
        pytest.skip(f"the tokenizer can't be had here: {error}")
    return model.path


class Server(ThreadingHTTPServer):
    """Streams a text token by token, each request another part of it; `tells` makes the usage of n tokens, None for no usage."""

    daemon_threads = True

    def __init__(self, folder, tells, tokens_per_event=1):
        from tokenizers import Tokenizer

        super().__init__(("127.0.0.1", 0), Handler)
        text = TEXT * 3
        self._tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
        self._pieces = [text[start:end] for start, end in self._tokenizer.encode(text, add_special_tokens=False).offsets]
        self.tells, self.tokens_per_event, self.served = tells, tokens_per_event, 0

    def answer(self, count):
        """The pieces of the next part of the text that is exactly so many tokens by itself, too."""
        while True:
            self.served += 1
            start = self.served % 40
            pieces = self._pieces[start : start + count]
            if len(self._tokenizer.encode("".join(pieces), add_special_tokens=False)) == count:
                return pieces


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Quiet."""

    def do_GET(self):
        self._send(200, b'{"data":[{"id":"smollm2"}]}', "application/json")

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server, count = self.server, asked["max_tokens"]
        pieces = server.answer(count)
        step = server.tokens_per_event
        events = [{"choices": [{"index": 0, "delta": {"content": "".join(pieces[at : at + step])}}]} for at in range(0, count, step)]
        events[-1]["choices"][0]["finish_reason"] = "length"
        if server.tells is not None:
            usage = {"prompt_tokens": 9, "completion_tokens": server.tells(count), "total_tokens": 9 + count}
            events.append({"choices": [], "usage": usage})
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        self._send(200, body.encode(), "text/event-stream")

    def _send(self, status, body, content_type):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(*arguments, **options):
    server = Server(*arguments, **options)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def run(url, folder, *words, cwd):
    fixed = ("serve-bench", "--engine", "openai", "--base-url", url, "--scenario", CLOSED_SCENARIO, "--num-warmups", "0")
    lengths = ("--output-len", "40", "--max-concurrency", "2", "--num-prompts", "30")
    ended = bmp(*fixed, *lengths, "--tokenizer", str(folder), *words, cwd=cwd, env={"OPENAI_API_KEY": CANARY})
    assert ended.returncode in RAN, ended.stderr
    found = run_folder(ended.stdout, cwd)
    return ended, found, json.loads((found / "summary.json").read_text())


def verified(folder, cwd):
    return bmp("verify", str(folder), cwd=cwd).returncode == 0


def test_an_honest_server_agrees_with_its_tokenizer(tmp_path, tokenizer):
    with serving(tokenizer, lambda count: count) as url:
        ended, folder, summary = run(url, tokenizer, cwd=tmp_path)
    recount = summary["tokens"]["recount"]
    assert (recount["answers"], recount["usage_tokens"], recount["recounted_tokens"]) == (30, 1200, 1200)
    assert recount["usage_disagreement"] == 0
    assert "usage / recount / chunks of 30" in ended.stdout
    assert not [text for text in summary["warnings"] if "recount" in text]
    assert verified(folder, tmp_path)
    kept = (folder / "recount.json").read_text()
    assert "crates" not in kept, "no text of an answer is kept"
    assert CANARY not in kept


@pytest.mark.parametrize(("tells", "apart"), [(lambda count: count * 5 // 4, 0.25), (lambda count: count // 2, 0.5)])
def test_a_server_that_lies_about_usage_is_found_out(tmp_path, tokenizer, tells, apart):
    with serving(tokenizer, tells) as url:
        ended, folder, summary = run(url, tokenizer, cwd=tmp_path)
    assert summary["tokens"]["recount"]["usage_disagreement"] == apart
    name = "/".join(Path(tokenizer).parts[-2:])
    assert any(f"the server's usage and a recount of 30 responses (tokenizer of {name})" in text for text in summary["warnings"])
    assert "is it this model's tokenizer?" in " ".join(ended.stdout.split())
    assert verified(folder, tmp_path)


def test_chunks_of_several_tokens_without_usage_are_found_out(tmp_path, tokenizer):
    with serving(tokenizer, None, tokens_per_event=4) as url:
        _, _, summary = run(url, tokenizer, cwd=tmp_path)
    recount = summary["tokens"]["recount"]
    assert recount["usage_disagreement"] is None
    assert recount["recounted_tokens"] == 1200
    assert any("chunks are counted as tokens" in text for text in summary["warnings"])


def test_several_workers_count_together_and_a_changed_count_is_found(tmp_path, tokenizer):
    with serving(tokenizer, lambda count: count) as url:
        _, folder, summary = run(url, tokenizer, "--workers", "2", cwd=tmp_path)
    assert summary["tokens"]["recount"]["answers"] == 30
    kept = json.loads((folder / "recount.json").read_text())
    text = next(iter(kept["tokens"]))
    kept["tokens"][text] += 1
    (folder / "recount.json").write_text(json.dumps(kept))
    assert not verified(folder, tmp_path)


def test_without_a_tokenizer_nothing_is_recounted(tmp_path):
    from tests.cli.helpers import QUICK

    ended = bmp(*QUICK, "--num-prompts", "5", "--request-rate", "50", "--quiet", cwd=tmp_path)
    folder = run_folder(ended.stdout, tmp_path)
    assert json.loads((folder / "summary.json").read_text())["tokens"]["recount"]["tokenizer"] == "one token per word"
    (folder / "recount.json").write_text('{"tokenizer": 3}')
    again = bmp("summarize", str(folder), cwd=tmp_path)
    assert "recount.json can't be used" in " ".join(again.stdout.split())
    (folder / "recount.json").unlink()
    again = bmp("summarize", str(folder), cwd=tmp_path)
    assert "recount" not in json.loads((folder / "summary.json").read_text())["tokens"]
    assert again.returncode in RAN


@pytest.mark.slow
def test_a_resumed_run_keeps_what_its_first_part_counted(tmp_path, tokenizer):
    with serving(tokenizer, lambda count: count) as url:
        words = ("serve-bench", "--engine", "openai", "--base-url", url, "--scenario", "smoke", "--num-warmups", "0", "--quiet")
        process = start(*words, "--request-rate", "50", "--num-prompts", "100", "--tokenizer", str(tokenizer), cwd=tmp_path)
        folder = wait_for_records(tmp_path, 30, process)
        process.terminate()
        process.communicate(timeout=60)
        before = len(list(read_records(folder)))
        ended = bmp("resume", str(folder), "--trust", cwd=tmp_path)
    assert ended.returncode in RAN, ended.stderr
    assert 30 <= before < 100
    assert json.loads((folder / "summary.json").read_text())["tokens"]["recount"]["answers"] == 100
    assert verified(folder, tmp_path)
