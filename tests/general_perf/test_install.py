"""A backend's packages, really installed by pip into a fresh environment: from wheels made here, no index needed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from bytemlperf.errors import UserError
from general_perf.usability import installed as installing
from tests.general_perf.vendor import install as install_vendor

PAYLOAD_BYTES = 50_000


def wheel(folder: Path, name: str, requires: str = "") -> None:
    """A wheel of one module."""
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr(f"{name}.py", "#" * PAYLOAD_BYTES)
        made.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}")
        made.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        made.writestr(f"{info}/RECORD", "")


@pytest.fixture
def vendor(tmp_path, monkeypatch) -> Path:
    install_vendor(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setattr(installing, "pinned", lambda _: ["bmptop==1.0"])
    return tmp_path


def test_packages_bytes_and_times_are_those_of_a_real_install(vendor):
    wheel(vendor, "bmptop", "Requires-Dist: bmpbelow\n")
    wheel(vendor, "bmpbelow")
    found = installing.install("vendor", folder=vendor)
    assert found.packages == 2
    assert 2 * PAYLOAD_BYTES < found.installed_bytes < 3 * PAYLOAD_BYTES
    assert 0 < found.fetched_bytes < PAYLOAD_BYTES  # a wheel is packed
    assert min(found.environment_s, found.fetch_s, found.install_s) > 0
    assert not list(vendor.glob("bmp-install-*"))


def test_what_pip_cannot_find_is_one_line_and_leaves_nothing(vendor):
    wheel(vendor, "bmptop", "Requires-Dist: bmpbelow\n")
    with pytest.raises(UserError, match="vendor can't be installed: No matching distribution found for bmpbelow"):
        installing.install("vendor", folder=vendor)
    assert not list(vendor.glob("bmp-install-*"))
