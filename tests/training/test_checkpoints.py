"""A checkpoint is data: a doctored one runs no code and is refused in a line, in its index as in its values."""

from __future__ import annotations

import json
import os
import pickle
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from bytemlperf.errors import UserError
from training.rank import checkpoint

torch = pytest.importorskip("torch")


class Code:
    """Its pickle makes a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def state() -> dict[str, Any]:
    return {"model": {"w": torch.arange(6.0), "half": torch.ones(2, dtype=torch.bfloat16)}, "rates": {"lr": 0.5, "betas": (0.9, 0.99)}}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "step-00000004"
    checkpoint.save(folder, state())
    checkpoint.seal(folder, 4)
    return folder


def test_what_was_saved_comes_back(saved: Path) -> None:
    held = {"model": {"w": torch.zeros(6), "half": torch.zeros(2, dtype=torch.bfloat16)}, "rates": {"lr": 0.0, "betas": (0.0, 0.0)}}
    assert checkpoint.examine(saved).step == 4
    checkpoint.load(saved, held)
    assert held["model"]["w"].tolist() == list(range(6))
    assert (held["model"]["half"].tolist(), held["rates"]) == ([1.0, 1.0], state()["rates"])


def reseal(folder: Path) -> None:
    (folder / checkpoint.MANIFEST).unlink()
    checkpoint.seal(folder, 4)


@pytest.mark.parametrize("place", ["whole", "planner_data", "storage_data"])
def test_an_index_with_code_is_refused_and_runs_nothing(saved: Path, tmp_path: Path, place: str) -> None:
    trace = tmp_path / "ran"
    index = pickle.loads((saved / ".metadata").read_bytes())
    if place == "whole":
        index = Code(trace)
    else:
        setattr(index, place, {"x": Code(trace)})
    (saved / ".metadata").write_bytes(pickle.dumps(index))
    reseal(saved)
    for read in (lambda: checkpoint.examine(saved), lambda: checkpoint.load(saved, state())):
        with pytest.raises(UserError, match=r"mkdir is no part of a checkpoint's index"):
            read()
    assert not trace.exists()


def test_a_value_with_code_runs_nothing(tmp_path: Path) -> None:
    trace, folder = tmp_path / "ran", tmp_path / "step-00000004"
    checkpoint.save(folder, state() | {"rates": {"lr": Code(trace), "betas": (0.9, 0.99)}})
    checkpoint.seal(folder, 4)
    with pytest.raises(UserError, match=r"value of rates\.lr is no plain number"):
        checkpoint.load(folder, state())
    assert not trace.exists()


def test_an_index_names_no_file_outside_its_folder(saved: Path) -> None:
    index = pickle.loads((saved / ".metadata").read_bytes())
    for place in index.storage_data.values():
        place.relative_path = f"../{saved.name}/{place.relative_path}"
    (saved / ".metadata").write_bytes(pickle.dumps(index))
    reseal(saved)
    with pytest.raises(UserError, match="not in it"):
        checkpoint.examine(saved)


@pytest.mark.parametrize("files", [[], {"x": 3}, {"../x": {"bytes": 1, "sha256": ""}}, {".metadata": {"bytes": None, "sha256": 3}}, None])
def test_a_manifest_of_another_shape_is_a_line(saved: Path, files: Any) -> None:
    (saved / checkpoint.MANIFEST).write_text(json.dumps({"step": 4, "files": files}))
    with pytest.raises(UserError, match="damaged"):
        checkpoint.examine(saved)


def test_a_manifest_that_is_a_fifo_holds_nobody(saved: Path) -> None:
    (saved / checkpoint.MANIFEST).unlink()
    os.mkfifo(saved / checkpoint.MANIFEST)
    with pytest.raises(UserError, match="can't be read"):
        checkpoint.examine(saved)


def test_an_index_cut_anywhere_is_a_line(saved: Path) -> None:
    whole = (saved / ".metadata").read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 40)):
        (saved / ".metadata").write_bytes(whole[:size])
        files = {".metadata": {"bytes": size, "sha256": sha256(whole[:size]).hexdigest()}}
        (saved / checkpoint.MANIFEST).write_text(json.dumps({"step": 4, "files": files}))
        with pytest.raises(UserError, match="index"):
            checkpoint.examine(saved)


def test_a_checkpoint_that_cannot_be_written_is_a_line_and_not_the_end(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    with pytest.raises(UserError, match="rank 0: "):
        checkpoint.save(tmp_path / "a file" / "step-00000004", state())
