"""A real vLLM server process on this CPU, on a port of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

START_LIMIT_S = 300
KEY = "sk-test-of-the-server"


class VllmServer:
    """`start` waits until it answers; `kill` ends it as a crash would, `stop` in order."""

    def __init__(self, model_path: str, log: Path, context_tokens: int = 2048) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(self.port)]
        self._command += ["--model", model_path, "--served-model-name", "tiny", "--enforce-eager", "--max-model-len", str(context_tokens)]

    def start(self) -> None:
        settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING", "HF_HUB_OFFLINE": "1"}
        with self._log.open("a") as file:
            self._process = subprocess.Popen(
                self._command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | settings | {"VLLM_API_KEY": KEY},
                start_new_session=True,
            )
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            assert self._process.poll() is None, self._log.read_text()[-3000:]
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.5)
        raise AssertionError(f"vLLM's server did not come up: {self._log.read_text()[-3000:]}")

    def kill(self) -> None:
        """The whole session at once, engine core included."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None
