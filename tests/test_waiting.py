"""What is shown while nothing can be counted, and where libraries' own output goes."""

from __future__ import annotations

import io
import os
import subprocess
import threading
from pathlib import Path

import pytest

from bytemlperf.command import waiting as module
from bytemlperf.command.waiting import printed_to, waiting


def noise() -> None:
    os.write(2, b"a C++ library, secret-key\n")
    subprocess.run(["sh", "-c", "echo a child"], check=True)


def test_libraries_print_into_a_file_that_a_sentence_counts(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log, said = tmp_path / "logs" / "engine.log", []
    with printed_to(log, lambda text: text.replace("secret-key", "[redacted]"), said.append) as stderr:
        noise()
        print("of ours", file=stderr)
    assert log.read_text() == "a C++ library, [redacted]\na child\n"
    assert said == [f"libraries printed 2 lines: {log}"]
    os.write(2, b"after\n")
    assert capfd.readouterr() == ("", "of ours\nafter\n")


def test_a_start_that_fails_shows_all_of_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def start() -> None:
        with printed_to(tmp_path / "logs" / "engine.log", lambda text: text.replace("secret-key", "[redacted]"), print):
            noise()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        start()
    assert capfd.readouterr() == ("", "a C++ library, [redacted]\na child\n")
    assert not list(tmp_path.iterdir())


def test_silence_leaves_no_file(tmp_path: Path) -> None:
    with printed_to(tmp_path / "logs" / "engine.log", str, lambda _: pytest.fail("nothing was printed")):
        pass
    assert not list(tmp_path.iterdir())


class Lines(io.StringIO):
    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def flush(self) -> None:
        self.written.set()


def test_a_wait_tells_how_long_it_takes_by_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMP_CACHE", str(tmp_path))
    first, second = Lines(), Lines()
    with waiting("compiling", first, every_s=0.001):
        assert first.written.wait(60)
    assert first.getvalue().splitlines()[0] == "[    0 s] compiling"
    (tmp_path / module.SECONDS).write_text('{"compiling": 3600.0}')
    with waiting("compiling", second, every_s=0.001):
        assert second.written.wait(60)
    assert second.getvalue().splitlines()[0] == "[    0 s] compiling; about 3600 s left"
