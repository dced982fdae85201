"""What `bmp-llm doctor --calibrate` prints."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bytemlperf.command.console import print_sections
from bytemlperf_llm.calibration import table
from bytemlperf_llm.calibration.cache import load, machine
from bytemlperf_llm.calibration.table import calibration_sections, ceiling_sentence, timer_sentence
from tests.calibration.made import calibration, errors, step


def printed(made) -> str:
    console = Console(file=io.StringIO(), width=160, no_color=True)
    print_sections(console, calibration_sections(made))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_every_step_has_its_figures_and_its_state():
    text = printed(
        calibration(
            step(10, ttft=errors(0.123, 1.456)),
            step(50, loop_busy=0.7),
            step(100, e2e=errors(3.0, 30.0)),
            step(200, unmatched=3),
            step(500, saturated="server"),
            step(700, lateness=errors(0.2, 872.5)),
        )
    )
    for expected in ("0.123", "1.456", "30.0", "16,000", "70%", "holds", "loop busy", "too far off", "3 lost", "server full"):
        assert expected in text, expected
    assert next(line for line in text.splitlines() if line.strip().startswith("700 ")).rstrip().endswith("late sends")
    assert "TTFT 50 ms, ITL 10 ms, 32 tokens" in text
    assert "against the target gap" in text
    assert "ceiling of one worker here: 320 tokens/s in 320 chunks/s" in text


def test_a_ladder_that_held_to_its_end_says_so():
    assert ceiling_sentence(calibration(step(10), step(100))).endswith("; the load steps end there, the machine may carry more")
    assert "more" not in ceiling_sentence(calibration(step(10), step(100, loop_busy=0.9)))
    assert ceiling_sentence(calibration(step(10, loop_busy=0.9))).startswith("ceiling: even the lowest load step did not hold")


@pytest.mark.parametrize(
    ("beyond", "says"),
    [
        ({"saturated": "server"}, "the reference server was the limit, not the worker"),
        ({"saturated": "machine"}, "other processes were using the cores"),
    ],
)
def test_a_limit_that_is_not_the_workers_is_not_called_its_ceiling(beyond, says):
    text = ceiling_sentence(calibration(step(10), step(100), step(200, **beyond)))
    assert text.startswith("one worker here carries at least: 3,200 tokens/s")
    assert says in text
    own = ceiling_sentence(calibration(step(10), step(100, saturated="client"), step(200, saturated="server")))
    assert own.startswith("ceiling of one worker here: 320 tokens/s")


def test_the_timer():
    assert timer_sentence(calibration()) == (
        "clock: resolution 1 ns, 40 ns between two stamps; timer wakes late by 50 µs (p99 200, max 400)"
    )


@pytest.mark.parametrize(("share", "told"), [(0.05, False), (0.62, True), (None, False)])
def test_a_busy_machine_is_told(share, told):
    assert ("other processes used up to 62% of this machine" in printed(calibration(step(10, others_busy=share)))) is told


def test_the_command_keeps_and_prints(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("BMP_CACHE", str(tmp_path))
    made = calibration(step(10), machine=machine())

    def measured(say):
        say("10 requests/s")
        return made

    monkeypatch.setattr(table, "run_calibration", measured)
    assert table.run_calibrate() == 0
    assert load() == (made, "")
    out, err = capsys.readouterr()
    assert "one worker here carries at least" in out
    assert "calibrating: 10 requests/s" in err
