"""The probe behind `rate: auto`, on a virtual clock against servers of known capacity."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import deque

import pytest

from bytemlperf_llm.loadgen.pacer import Pacer
from bytemlperf_llm.loadgen.probe import MAX_BUSY, Probe
from engines.contract import Decoded, EngineError, Finish, Usage
from tests.virtual import MS, Script, ScriptedEngine, make_request, run, sleep_until_s

TEN_TOKENS = Script(tuple((i * 10 * MS, 1) for i in range(1, 11)), reported_tokens=10)  # 100 ms


def find(engine, max_tokens=10, probe_s=30.0, mean_output_tokens=None, lengths=None, cpu_ns=None, **kwargs):
    lengths = itertools.repeat(max_tokens) if lengths is None else lengths

    async def main(loop):
        requests = (make_request(index, tokens) for index, tokens in enumerate(lengths))
        probe = Probe(engine, requests, Pacer(loop.now_ns), loop.now_ns, (lambda: 0) if cpu_ns is None else lambda: cpu_ns(loop))
        return await probe.find(probe_s, 0.7, float(mean_output_tokens or max_tokens), **kwargs)

    return run(main)


class _Counted:
    """Usage as asked for; a payload is a token."""

    def decode(self, payloads):
        return Decoded(tokens_per_chunk=list(payloads), text="")

    @staticmethod
    def finish(request):
        return Finish(reason="length", usage=Usage(prompt_tokens=3, output_tokens=request.max_tokens))


class Slots(_Counted):
    """So many requests at once, the others wait: a wait for the first token, then one token after another."""

    def __init__(self, slots, first_s, gap_s):
        self._slots, self._first_s, self._gap_s = asyncio.Semaphore(slots), first_s, gap_s

    async def generate(self, request, recorder):
        recorder.sent()
        async with self._slots:
            first_s = asyncio.get_running_loop().time() + self._first_s
            for place in range(request.max_tokens):
                await sleep_until_s(first_s + place * self._gap_s)
                recorder.chunk(1)
        return self.finish(request)


class Batch(_Counted):
    """Continuous batching: each step gives one token to everything in the batch, and takes `step_s`, `per_stream_s` for each of them and
    `prefill_s` for each newcomer."""

    def __init__(self, step_s, per_stream_s, prefill_s, most):
        self._costs, self._most = (step_s, per_stream_s, prefill_s), most
        self._batch, self._waiting, self._stepping = [], deque(), None

    def capacity(self, tokens):
        """Requests/s of a full batch in which one of so many tokens a stream comes with a prefill."""
        step_s, per_stream_s, prefill_s = self._costs
        return self._most / (step_s + self._most * (per_stream_s + prefill_s / tokens)) / tokens

    async def generate(self, request, recorder):
        recorder.sent()
        stream = [recorder, request.max_tokens, asyncio.get_running_loop().create_future()]
        self._waiting.append(stream)
        if self._stepping is None:
            self._stepping = asyncio.ensure_future(self._steps())
        await stream[2]
        return self.finish(request)

    async def _steps(self):
        step_s, per_stream_s, prefill_s = self._costs
        while self._batch or self._waiting:
            new = 0
            while self._waiting and len(self._batch) < self._most:
                self._batch.append(self._waiting.popleft())
                new += 1
            await asyncio.sleep(step_s + per_stream_s * len(self._batch) + prefill_s * new)
            for stream in list(self._batch):
                stream[0].chunk(1)
                stream[1] -= 1
                if stream[1] == 0 or stream[2].cancelled():
                    self._batch.remove(stream)
                    stream[2].cancelled() or stream[2].set_result(None)
        self._stepping = None


CAPACITIES = [  # requests/s, slots, tokens, share of a request's time before its first token
    (2, 1, 40, 0.05),
    (2, 4, 1, 1.0),
    (2, 4, 10, 0.5),
    (2, 8, 40, 0.05),
    (20, 1, 1, 1.0),
    (20, 6, 40, 0.5),
    (20, 64, 40, 0.05),
    (200, 3, 10, 0.05),
    (200, 50, 1, 1.0),
    (200, 200, 10, 0.05),
    (1000, 16, 10, 0.5),
    (1000, 300, 10, 0.05),
    (2000, 20, 40, 0.05),
    (2000, 250, 10, 0.5),
]


@pytest.mark.parametrize(("capacity", "slots", "tokens", "wait"), CAPACITIES)
def test_65_to_75_percent_of_a_servers_true_capacity_are_offered(capacity, slots, tokens, wait):
    seconds = slots / capacity
    gap_s = seconds * (1 - wait) / max(1, tokens - 1)
    found = find(Slots(slots, seconds - gap_s * (tokens - 1), gap_s), tokens)
    assert 0.65 * capacity <= found.rate_per_s <= 0.75 * capacity, found.sentence()
    assert found.ceiling_found
    assert found.seconds <= max(4.0, 7 * seconds, 30.0 if seconds > 3 else 15.0)
    assert found.requests <= 60 + 3 * capacity + 8 * slots


@pytest.mark.parametrize(("slots", "seconds"), [(16, 0.8), (100, 1.0), (250, 0.25)])
def test_answers_of_any_length_are_no_trouble(slots, seconds):
    draw = random.Random(slots)
    lengths = [max(2, round(draw.lognormvariate(2.8, 0.6))) for _ in range(20_000)]
    mean = sum(lengths) / len(lengths)
    gap_s = seconds * 0.9 / mean
    capacity = slots / (seconds * 0.1 + gap_s * (mean - 1))
    found = find(Slots(slots, seconds * 0.1, gap_s), mean_output_tokens=mean, lengths=lengths)
    assert 0.65 * capacity <= found.rate_per_s <= 0.75 * capacity, found.sentence()


BATCHES = [
    (0.02, 0.0002, 0.0, 256, 10),
    (0.02, 0.002, 0.005, 64, 10),
    (0.02, 0.002, 0.005, 64, 60),
    (0.01, 0.00005, 0.001, 512, 10),
    (0.005, 0.0005, 0.0, 128, 20),
]


@pytest.mark.parametrize(("step_s", "per_stream_s", "prefill_s", "most", "tokens"), BATCHES)
def test_an_engine_whose_steps_grow_with_its_batch_is_climbed_to_its_ceiling(step_s, per_stream_s, prefill_s, most, tokens):
    engine = Batch(step_s, per_stream_s, prefill_s, most)
    found = find(engine, tokens)
    assert 0.65 <= found.rate_per_s / engine.capacity(tokens) <= 0.75, found.sentence()


def test_a_server_that_carries_a_thousand_a_second_is_not_left_at_32_streams():
    found = find(Slots(300, 0.1, 0.02))  # 300 slots of 280 ms
    assert found.rate_per_s == pytest.approx(0.7 * 300 / 0.28, rel=0.05)
    assert found.best.concurrency > 256


def test_streams_double_until_two_steps_tell_the_ceiling():
    found = find(ScriptedEngine([TEN_TOKENS], slots=8))
    # eight slots of 100 ms each and ten tokens: 80 requests/s, 800 tokens/s
    assert found.best.tokens_per_s == pytest.approx(800, rel=0.03)
    assert [step.concurrency for step in found.steps] == [4, 8, 16], "16 brings nothing over 8, so it stops"
    assert found.ceiling_found
    assert "16 streams brought" in found.ended


@pytest.mark.parametrize(("begin_s", "end_s"), [(1.0, 2.5), (0.9, 3.0), (1.2, 4.0), (0.7, 2.2)])
def test_a_stall_is_not_taken_for_the_ceiling(begin_s, end_s):
    """An engine that compiles something for a larger batch begins nothing for some seconds."""

    class Stalled(ScriptedEngine):
        async def generate(self, request, recorder):
            if begin_s < asyncio.get_running_loop().time() < end_s:
                await sleep_until_s(end_s)
            return await super().generate(request, recorder)

    found = find(Stalled([TEN_TOKENS], slots=64))
    assert found.rate_per_s == pytest.approx(0.7 * 640, rel=0.07), found.sentence()


def test_a_cap_on_concurrency_is_kept_and_said_not_to_be_the_ceiling():
    found = find(ScriptedEngine([TEN_TOKENS]), max_concurrency=6)
    assert [step.concurrency for step in found.steps] == [4, 6]
    assert not found.ceiling_found
    assert "CEILING NOT FOUND: throughput still grew at 6 streams, the limit of max_concurrency" in found.sentence()


def test_time_that_is_over_is_said_and_kept():
    slow = Script(tuple((i * 200 * MS, 1) for i in range(1, 11)), reported_tokens=10)  # 2 s
    found = find(ScriptedEngine([slow]), probe_s=10.0)
    assert not found.ceiling_found
    assert found.seconds <= 10.01
    assert "time budget ended" in found.ended
    assert found.rate_per_s == pytest.approx(0.7 * found.best.concurrency / 2, rel=0.1)


def test_no_answer_within_the_time_leaves_what_came():
    slow = Script(tuple((i * 200 * MS, 1) for i in range(1, 1001)), reported_tokens=1000)
    found = find(ScriptedEngine([slow], slots=4), 1000, probe_s=3.0)
    assert not found.ceiling_found
    assert found.best.tokens_per_s == pytest.approx(20, rel=0.2)


def test_a_busy_client_is_not_taken_for_the_servers_ceiling():
    """Here each stream takes 1 % of the client's loop: at 128 it would be the limit itself."""
    busy = {"ns": 0, "at": 0}

    def cpu_ns(loop):
        streams = min(engine.most, 100)
        busy["ns"] += round((loop.now_ns() - busy["at"]) * streams * 0.01)
        busy["at"] = loop.now_ns()
        return busy["ns"]

    class Watched(ScriptedEngine):
        most = now = 0

        async def generate(self, request, recorder):
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                return await super().generate(request, recorder)
            finally:
                self.now -= 1

    engine = Watched([TEN_TOKENS])
    found = find(engine, cpu_ns=cpu_ns)
    assert not found.ceiling_found
    assert "this client was" in found.ended
    assert found.best.busy <= MAX_BUSY
    assert found.best.concurrency == 64


class Refusing(ScriptedEngine):
    """No more than twenty at once."""

    error_class, now = "http_429", 0

    async def generate(self, request, recorder):
        if self.now >= 20:
            raise EngineError(self.error_class, "too many")
        self.now += 1
        try:
            return await super().generate(request, recorder)
        finally:
            self.now -= 1


def test_the_clients_own_limits_are_no_ceiling_of_the_servers():
    engine = Refusing([TEN_TOKENS])
    engine.error_class = "client_limit"
    found = find(engine)
    assert not found.ceiling_found
    assert "this client met its own limit at 32 streams: too many" in found.sentence()


def test_requests_that_begin_to_fail_are_a_ceiling():
    found = find(Refusing([TEN_TOKENS]))
    assert found.ceiling_found
    assert "requests started failing at 32 streams" in found.ended
    assert found.rate_per_s == pytest.approx(0.7 * 200, rel=0.1)


def test_an_error_in_the_stream_is_no_answer():
    class Unwell(Refusing):
        async def generate(self, request, recorder):
            try:
                return await super().generate(request, recorder)
            except EngineError:
                recorder.chunk("error")
                return Finish()

        def decode(self, payloads):
            return (
                Decoded(tokens_per_chunk=[0], text="", error_class="error_in_stream") if "error" in payloads else super().decode(payloads)
            )

    assert "requests started failing at 32 streams" in find(Unwell([TEN_TOKENS])).ended


def test_requests_that_fail_from_the_start_are_none():
    every_third = [TEN_TOKENS, TEN_TOKENS, Script((), error="http_5xx")]
    assert [step.concurrency for step in find(ScriptedEngine(every_third, slots=8)).steps] != [4]


def test_long_answers_are_counted_by_their_chunks():
    slow = Script(tuple((i * 200 * MS, 1) for i in range(1, 201)), reported_tokens=200)  # 40 s
    found = find(ScriptedEngine([slow], slots=4), 200)
    assert found.best.tokens_per_s == pytest.approx(20, rel=0.1)
    assert found.rate_per_s == pytest.approx(0.7 * 20 / 200, rel=0.1)


def test_several_tokens_a_chunk_are_counted_as_tokens():
    batched = Script(((50 * MS, 5), (100 * MS, 5)), reported_tokens=10)
    assert find(ScriptedEngine([batched], slots=4)).best.tokens_per_s == pytest.approx(400, rel=0.02)


def test_answers_that_end_early_shorten_the_mean_by_their_share():
    found = find(ScriptedEngine([TEN_TOKENS], slots=8), max_tokens=20)
    assert found.mean_output_tokens == pytest.approx(10.0)
    assert found.rate_per_s == pytest.approx(0.7 * 80, rel=0.03)


def test_short_answers_that_finish_first_do_not_pass_for_all():
    short = Script(((50 * MS, 1),), reported_tokens=1)
    long = Script(tuple((i * 100 * MS, 1) for i in range(1, 400)), reported_tokens=400)
    lengths = (1 if index % 2 == 0 else 400 for index in itertools.count())
    assert find(ScriptedEngine([short, long]), mean_output_tokens=200.0, lengths=lengths).mean_output_tokens == pytest.approx(200.0)


def test_an_engine_that_only_fails_is_named():
    with pytest.raises(EngineError) as caught:
        find(ScriptedEngine([Script((), error="http_5xx")]))
    assert caught.value.error_class == "http_5xx"
