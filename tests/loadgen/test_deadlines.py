"""Deadlines as a pure function, and the pacers."""

from __future__ import annotations

import asyncio

from bytemlperf_llm.loadgen.deadlines import Deadline, Timeouts, Watchdog, next_deadline
from bytemlperf_llm.loadgen.pacer import Pacer, real_pacer
from bytemlperf_llm.loadgen.recorder import RequestRecorder, monotonic_ns
from tests.virtual import MS, run

LIMITS = Timeouts(connect_ns=10, first_token_ns=100, idle_ns=50, total_ns=300)


def test_the_limit_that_applies_depends_on_what_was_seen():
    assert next_deadline(LIMITS, 0, None, None) == Deadline(10, "connect_timeout")
    assert next_deadline(LIMITS, 0, 5, None) == Deadline(105, "first_token_timeout")
    assert next_deadline(LIMITS, 0, 5, 90) == Deadline(140, "idle_timeout")
    assert next_deadline(LIMITS, 0, 5, 290) == Deadline(300, "total_timeout")
    assert next_deadline(Timeouts(10, 100, 50, 8), 0, None, None) == Deadline(8, "total_timeout")


def test_the_virtual_pacer_is_exact_and_can_be_interrupted():
    async def main(loop):
        pacer = Pacer(loop.now_ns)
        await pacer.until(1_234_567)
        first = loop.now_ns()
        loop.call_later(0.005, pacer.interrupt)
        await pacer.until(10**15)
        return first, loop.now_ns()

    first, second = run(main)
    assert first == 1_234_567
    assert second == first + 5 * MS


def test_tokens_that_another_thread_holds_are_fetched_before_a_request_is_judged():
    """Without `catch_up` the watchdog would see no token for longer than the idle limit."""
    limits = Timeouts(connect_ns=100 * MS, first_token_ns=100 * MS, idle_ns=100 * MS, total_ns=1000 * MS)

    async def main(loop):
        recorder = RequestRecorder(loop.now_ns)
        held: list[int] = []

        def catch_up():
            recorder.chunk_ns.extend(held)
            recorder.payloads.extend(held)
            held.clear()

        async def life():
            recorder.sent()
            recorder.catch_up = catch_up
            for _ in range(8):
                await asyncio.sleep(0.06)
                held.append(loop.now_ns())
            await asyncio.sleep(0.5)

        task = asyncio.ensure_future(life())
        dog = Watchdog(limits, loop.now_ns, lambda payloads: bool(payloads))
        watch = dog.watch(recorder, task)
        await asyncio.wait([task])
        dog.close()
        return watch.expired, loop.now_ns() // MS

    expired, end_ms = run(main)
    assert expired == "idle_timeout"
    assert end_ms == 8 * 60 + 100


async def test_the_real_pacer_never_wakes_early():
    pacer = real_pacer()
    try:
        for delay_ns in (100_000, 1_000_000, 3_300_000):
            due_ns = monotonic_ns() + delay_ns
            await pacer.until(due_ns)
            assert monotonic_ns() >= due_ns
        await pacer.until(0)
    finally:
        pacer.close()


async def test_an_interrupted_timerfd_pacer_returns_at_once():
    pacer = real_pacer()
    try:
        asyncio.get_running_loop().call_later(0.01, pacer.interrupt)
        due_ns = monotonic_ns() + 3600 * 10**9
        await asyncio.wait_for(pacer.until(due_ns), timeout=30)
        await asyncio.wait_for(pacer.until(due_ns), timeout=30)
        assert monotonic_ns() < due_ns
    finally:
        pacer.close()
