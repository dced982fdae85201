"""Comparing clocks: the true offset lies within the stated uncertainty, whatever the two ways take."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

from bytemlperf.version import __version__
from bytemlperf_llm.loadgen.clock_offset import Offset, measure_offset
from bytemlperf_llm.loadgen.messages import MemberSpec
from bytemlperf_llm.loadgen.ray_fleet import RayHandle, portable
from bytemlperf_llm.loadgen.ray_relay import here
from bytemlperf_llm.loadgen.recorder import monotonic_ns


class Link:
    """Two clocks and a line between them whose delays are chosen."""

    def __init__(self, offset_ns: int, delays: Any) -> None:
        self.now_ns, self._offset_ns, self._delays = 0, offset_ns, delays

    def now(self) -> int:
        return self.now_ns

    async def ask(self) -> int:
        there_ns, back_ns = next(self._delays)
        self.now_ns += there_ns
        read_ns = self.now_ns + self._offset_ns
        self.now_ns += back_ns
        return read_ns


@pytest.mark.parametrize("seed", range(50))
def test_the_truth_lies_within_the_uncertainty(seed):
    rng = random.Random(seed)
    offset_ns = rng.randrange(-(10**15), 10**15)
    link = Link(offset_ns, iter(lambda: (rng.randrange(10**7), rng.randrange(10**7)), None))
    found = asyncio.run(measure_offset(link.ask, link.now))
    assert abs(found.offset_ns - offset_ns) <= found.uncertainty_ns


def test_the_fastest_round_trip_counts():
    link = Link(5_000, iter([(900_000, 100), (10, 20), (50_000, 50_000)]))
    assert asyncio.run(measure_offset(link.ask, link.now, round_trips=3)) == Offset(4_995, 15)


def test_an_offset_within_its_uncertainty_may_be_nothing():
    assert Offset(15, 15).is_nothing
    assert not Offset(-16, 15).is_nothing
    assert Offset(-1_234_567, 500_000).text() == "-1.235 ms ± 0.500 ms"


class _Call:
    """As Ray's actor methods are called."""

    def __init__(self, function: Any) -> None:
        self.remote = function


class FarActor:
    """An actor on a machine whose clock is ahead."""

    def __init__(self, ahead_ns: int) -> None:
        self.started_at_ns = 0
        self._ahead_ns = ahead_ns
        self.clock, self.go = _Call(self._clock), _Call(self._go)

    async def _clock(self) -> int:
        await asyncio.sleep(0)
        return monotonic_ns() + self._ahead_ns

    async def _go(self, origin_ns: int) -> None:
        self.started_at_ns = origin_ns


async def test_a_far_member_gets_the_origin_in_its_own_clock(tmp_path):
    said: list[str] = []
    spec = MemberSpec(
        engine="reference", engine_options={}, model=None, scenario={}, scenario_folder="", seed=0, workers=1, keep_output=False, live=False
    )
    handle = RayHandle(spec, {}, tmp_path / "records-0.jsonl", said.append)
    ahead_ns = 7_000_000_000
    handle._actor = FarActor(ahead_ns)
    place = here()
    place.host, place.boot_id = "far", "another kernel"
    await handle._compare_clocks(place)
    await handle.go(1_000)
    described = handle.described()
    assert abs(handle._actor.started_at_ns - (1_000 + ahead_ns)) <= described["clock_before"]["uncertainty_ns"]
    assert not described["same_clock"]
    assert "+7,000." in said[0]
    assert "on far" in said[0]
    assert json.dumps(described)
    handle._log.close()


async def test_one_kernel_is_one_clock(tmp_path):
    spec = MemberSpec(
        engine="reference", engine_options={}, model=None, scenario={}, scenario_folder="", seed=0, workers=1, keep_output=False, live=False
    )
    handle = RayHandle(spec, {}, tmp_path / "records-0.jsonl", lambda _: None)
    handle._actor = FarActor(0)
    await handle._compare_clocks(here())
    await handle.go(1_000)
    assert handle._actor.started_at_ns == 1_000
    assert here().version == __version__
    handle._log.close()


def test_a_key_goes_along_out_of_the_options(tmp_path, monkeypatch):
    (tmp_path / "key").write_text("sk-abc\n")
    assert portable({"api_key_file": str(tmp_path / "key"), "base_url": "u"}) == ({"base_url": "u"}, {"OPENAI_API_KEY": "sk-abc"})
    monkeypatch.setenv("MY_KEY", "sk-def")
    assert portable({"api_key_env": "MY_KEY"}) == ({"api_key_env": "MY_KEY"}, {"MY_KEY": "sk-def"})
    monkeypatch.delenv("MY_KEY")
    assert portable({"api_key_env": "MY_KEY"}) == ({"api_key_env": "MY_KEY"}, {})
