"""The one live view: what it says in plain form, and that a quiet or piped one says no more than it should."""

from __future__ import annotations

import io

import pytest

from bytemlperf.command import live
from bytemlperf.command.live import LiveView


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    return now


def test_the_plain_form_says_how_much_is_done_what_is_known_and_how_long_it_takes(clock: list[float]) -> None:
    view = LiveView("gpt", "steps", quiet=False)
    view.begin(12)
    clock[0] += 4.0
    view.update("gemm\n[torch]", 4, {"loss": "2.5", "failed": ""})
    assert view.line() == "[    4 s] 4/12 steps; gemm [torch]; loss 2.5; about 8 s left"


def test_a_pipe_gets_a_line_now_and_then_and_quiet_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (False, True):
        with LiveView("", "cases", quiet=quiet) as view:
            for done in range(1, 26):
                clock[0] += 1.0
                view.update(done=done)
            view.note("kept")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert [line.partition("]")[2] for line in shown.err.splitlines()] == [" 10 cases; starting", " 20 cases; starting", ""]


def test_a_terminal_gets_a_bar_that_goes_and_notes_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with LiveView("[red]gpt[/]", "steps", quiet=False, total=3, own_thread=False) as view:
        view.update("now", 2, {"loss": "2.5"})
        view.note("[1/3] stays")
    assert "[red]gpt[/]" in screen.getvalue(), "what comes from outside is no markup"
    assert "2/3 steps" in screen.getvalue()
    assert "[1/3] stays" in screen.getvalue()
