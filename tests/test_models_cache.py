"""The model cache: whole or not there, checked, rebuilt, safe with several processes."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bytemlperf.models.cache import MARKER, built_folder, cache_root, is_sound

RECIPE = {"recipe": 1}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BMP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def writing(text: str, built: list[str]) -> Callable[[Path], dict[str, str]]:
    def build(folder: Path) -> dict[str, str]:
        (folder / "sub").mkdir()
        (folder / "sub" / "weights").write_text(text)
        built.append(text)
        return {"tool": "1.0"}

    return build


def test_built_once_then_found():
    built: list[str] = []
    first = built_folder("m", RECIPE, writing("one", built))
    assert built_folder("m", RECIPE, writing("two", built)) == first
    assert built == ["one"]
    marker = json.loads((first / MARKER).read_text())
    assert marker["recipe"] == RECIPE
    assert marker["versions"] == {"tool": "1.0"}
    assert set(marker["files"]) == {"sub/weights"}


def damage_weights(folder: Path) -> None:
    (folder / "sub" / "weights").write_text("onE")


def cut_weights(folder: Path) -> None:
    os.truncate(folder / "sub" / "weights", 1)


def lose_weights(folder: Path) -> None:
    (folder / "sub" / "weights").unlink()


def lose_marker(folder: Path) -> None:
    (folder / MARKER).unlink()


def garble_marker(folder: Path) -> None:
    (folder / MARKER).write_text('{"recipe": {"recipe": 1}, "files": []}')


@pytest.mark.parametrize("harm", [damage_weights, cut_weights, lose_weights, lose_marker, garble_marker])
def test_a_broken_folder_is_built_again(harm: Callable[[Path], None], own_cache: Path):
    built: list[str] = []
    folder = built_folder("m", RECIPE, writing("one", built))
    harm(folder)
    assert not is_sound(folder, RECIPE)
    built_folder("m", RECIPE, writing("one", built))
    assert (folder / "sub" / "weights").read_text() == "one"
    assert len(built) == 2
    assert sorted(path.name for path in own_cache.iterdir()) == [".m.lock", "m"]


def test_another_recipe_is_built_anew():
    built: list[str] = []
    built_folder("m", RECIPE, writing("one", built))
    built_folder("m", {"recipe": 2}, writing("two", built))
    assert built == ["one", "two"]


def test_a_failed_build_leaves_nothing(own_cache: Path):
    def fail(folder: Path) -> dict[str, str]:
        (folder / "half").write_text("x")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        built_folder("m", RECIPE, fail)
    assert [path.name for path in own_cache.iterdir()] == [".m.lock"]


def test_what_a_killed_build_left_is_removed(own_cache: Path):
    stale = own_cache / ".building-m-abc"
    stale.mkdir(parents=True)
    other = own_cache / ".building-other-abc"
    other.mkdir()
    built_folder("m", RECIPE, writing("one", []))
    assert not stale.exists()
    assert other.exists()


def _build_in_process(log: str) -> None:
    def build(folder: Path) -> dict[str, str]:
        with open(log, "a") as file:
            file.write("built\n")
        (folder / "weights").write_text("x" * 100_000)
        return {}

    assert is_sound(built_folder("m", RECIPE, build), RECIPE)


def test_several_processes_build_once(tmp_path: Path):
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_build_in_process, args=(str(log),)) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 6
    assert log.read_text() == "built\n"


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BMP_CACHE", "~/here")
    assert cache_root() == tmp_path / "here"
    monkeypatch.delenv("BMP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "bytemlperf-llm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == tmp_path / ".cache" / "bytemlperf-llm"
