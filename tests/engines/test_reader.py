"""The reading thread gives a connection's tap what the event loop would have given it, and rings when it must."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bytemlperf_llm.loadgen.recorder import RequestRecorder, monotonic_ns
from engines.http import pool as http_pool
from engines.http.pool import Pool
from engines.http.tap import make_tap
from tests.virtual import MS

try:
    from engines.http._stream import Reader
except ImportError:
    pytest.skip("there is no reading thread where engines/http/_stream.c isn't compiled", allow_module_level=True)

HEAD = b"HTTP/1.1 200 OK\r\nServer: x\r\nTransfer-Encoding: chunked\r\n\r\n"
DATA = b'data: {"choices": [{"delta":1}]}\n\n'
EVENT = b"%x\r\n%b\r\n" % (len(DATA), DATA)
LAST = b"0\r\n\r\n"
PATIENCE_S = 30.0


class Peer:
    """A connected pair: the reader reads one end, the test writes the other."""

    def __init__(self, reader: Reader, kind: Callable[[], tuple[socket.socket, socket.socket]] = socket.socketpair) -> None:
        self.reader = reader
        self.server, self.client = kind()
        self.looked: list[bytes] = []
        self.ends: list[int] = []
        self.stamps: list[int] = []
        self.reads: list[bytes] = []
        self.tap = make_tap(self.looked.append)
        self.listen()
        self.name = reader.add(self.client.fileno(), self.tap, self.ends.append)

    def listen(self) -> None:
        self.stamps, self.reads = [], []
        self.tap.listen(None, self.stamps, self.reads, 1 << 30, 1 << 30)

    def send(self, *reads: bytes) -> None:
        """One after the other, each read before the next is sent: what was read is in no test left to chance."""
        for data in reads:
            self.server.sendall(data)
            until(lambda: unread(self.client) == 0)

    def close(self) -> None:
        self.reader.remove(self.name)
        self.server.close()
        self.client.close()


def unread(client: socket.socket) -> int:
    """Bytes that the kernel still holds."""
    import fcntl
    import termios

    return int(struct.unpack("i", fcntl.ioctl(client, termios.FIONREAD, b"\0\0\0\0"))[0])


def until(condition: Callable[[], bool]) -> None:
    limit_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < limit_s, "waited in vain"
        time.sleep(0.0005)


def rang(reader: Reader, wait_s: float = 0.0) -> bool:
    poll = select.poll()
    poll.register(reader.fileno(), select.POLLIN)
    return bool(poll.poll(wait_s * 1000))


def dispatch(reader: Reader) -> None:
    assert rang(reader, PATIENCE_S), "the reader did not ring"
    reader.dispatch()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return listener.accept()[0], client


@pytest.fixture
def reader() -> Iterator[Reader]:
    made = Reader()
    yield made
    made.close()


@pytest.fixture
def peer(reader: Reader) -> Iterator[Peer]:
    made = Peer(reader)
    yield made
    made.close()


def test_an_answer_is_handed_over_once_when_it_could_be_whole(reader, peer):
    before_ns = monotonic_ns()
    peer.send(HEAD + EVENT, *[EVENT] * 50)
    assert not rang(reader)
    assert peer.reads == []
    peer.send(EVENT + LAST)
    dispatch(reader)
    assert peer.reads == [HEAD + EVENT, *[EVENT] * 50, EVENT + LAST]
    assert peer.stamps == sorted(peer.stamps)
    assert before_ns <= peer.stamps[0]
    assert peer.stamps[-1] <= monotonic_ns()
    assert len(peer.stamps) == len(peer.reads)
    assert peer.looked[0] == HEAD + EVENT
    assert peer.looked[-1] == EVENT + LAST
    assert not rang(reader)


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n" + EVENT,
        b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n" + EVENT,
        b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + EVENT,
        b"HTTP/1.1 200 OK\r\nX-Transfer-Encoding: chunked\r\n\r\n" + EVENT,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n" + EVENT,
        b"HTTP/1.1 200 OK\r\n\r\n\r\nTransfer-Encoding: chunked\r\n" + EVENT,
        b"HTTP/1.1 200 OK\r\nServer: x\r\n",
        HEAD[:40],
        HEAD,
        EVENT,
        b"\n\n\r\n",
        b"x",
    ],
)
def test_what_does_not_begin_plainly_is_looked_at_at_once(reader, peer, first):
    peer.send(first)
    dispatch(reader)
    assert peer.looked == peer.reads == [first]


@pytest.mark.parametrize("coding", [b"transfer-encoding: chunked", b"Transfer-Encoding: Chunked", b"TRANSFER-ENCODING: CHUNKED"])
def test_header_names_may_be_written_in_any_case(reader, peer, coding):
    peer.send(b"HTTP/1.1 200 OK\r\n" + coding + b"\r\nA: b\r\n\r\n" + EVENT)
    assert not rang(reader)


def test_reads_after_a_look_are_quiet_only_where_python_says_so(reader, peer):
    peer.send(HEAD)
    dispatch(reader)
    peer.send(EVENT)
    dispatch(reader)
    peer.tap.quiet = True
    peer.send(EVENT)
    assert not rang(reader)
    peer.listen()  # the next answer: nothing is known of it
    peer.send(b"x\n\n\r\n")
    dispatch(reader)
    assert peer.reads == [EVENT, b"x\n\n\r\n"]


def test_what_has_arrived_can_be_taken_at_any_time(reader, peer):
    peer.send(HEAD + EVENT, EVENT)
    reader.take(peer.name)
    assert peer.reads == [HEAD + EVENT, EVENT]
    reader.take(peer.name)
    assert len(peer.reads) == 2


def test_a_long_quiet_answer_is_handed_over_in_parts(reader, peer):
    peer.send(HEAD + EVENT)
    for _ in range(4200):
        peer.send(EVENT)
    assert rang(reader, PATIENCE_S)
    reader.dispatch()
    reader.take(peer.name)
    assert len(peer.reads) == 4201


def test_a_reader_that_nobody_empties_lets_the_server_wait(reader):
    peer = Peer(reader, tcp_pair)
    peer.server.setblocking(False)
    block, sent = b"x" * (1 << 16), 0
    silent_since = time.monotonic()
    while time.monotonic() - silent_since < 0.5:
        try:
            sent += peer.server.send(block)
            silent_since = time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)
        assert sent < 1 << 28, "the reader keeps whatever comes"
    while sum(map(len, peer.reads)) < sent:
        dispatch(reader)
    assert sum(map(len, peer.reads)) == sent
    peer.close()


def test_the_peers_end_is_told_after_the_last_read(reader, peer):
    peer.server.sendall(HEAD + EVENT)
    peer.server.close()
    until(lambda: rang(reader))
    while not peer.ends:
        dispatch(reader)
    assert peer.reads == [HEAD + EVENT]
    assert peer.ends == [0]
    reader.take(peer.name)
    assert peer.ends == [0]


@pytest.mark.parametrize("kept_bytes", [0, 10, 1 << 16, 3 << 16, (1 << 20) + 5])
def test_an_end_that_comes_with_the_last_bytes_is_seen(reader, kept_bytes):
    """Whatever was there before the reader: one edge tells of both."""
    peer = Peer(reader, tcp_pair)
    reader.remove(peer.name)
    peer.server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    peer.server.setblocking(False)
    sent = sum(peer.server.send(b"x" * (1 << 15)) for _ in range(kept_bytes >> 15)) + peer.server.send(b"x" * (kept_bytes & 0x7FFF))
    peer.server.close()
    peer.name = reader.add(peer.client.fileno(), peer.tap, peer.ends.append)
    while not peer.ends:
        dispatch(reader)
    assert sum(map(len, peer.reads)) == sent == kept_bytes
    assert peer.ends == [0]
    peer.client.close()


def test_a_reset_is_told_with_its_errno(reader):
    peer = Peer(reader, tcp_pair)
    peer.server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.server.close()
    dispatch(reader)
    assert peer.ends == [errno.ECONNRESET]
    peer.close()


def test_a_removed_connection_is_forgotten_and_its_place_taken(reader, peer):
    peer.send(HEAD + EVENT, b"a read that rings")
    reader.remove(peer.name)
    second = Peer(reader)
    assert second.name & 0xFFFFFFFF == peer.name & 0xFFFFFFFF
    dispatch(reader)
    reader.take(peer.name)
    assert (peer.reads, second.reads) == ([], [])
    second.send(b"hello")
    dispatch(reader)
    assert second.reads == [b"hello"]
    second.close()


def test_a_look_that_removes_the_connection_gets_no_more(reader):
    peer = Peer(reader)
    peer.tap = tap = make_tap(lambda data: reader.remove(peer.name))
    reader.remove(peer.name)
    tap.listen(None, peer.stamps, peer.reads, 1 << 20, 1 << 20)
    peer.name = reader.add(peer.client.fileno(), tap, peer.ends.append)
    peer.send(HEAD + EVENT, EVENT, b"x")
    dispatch(reader)
    assert peer.reads == [HEAD + EVENT]
    peer.server.close()
    peer.client.close()


def test_many_connections_at_once(reader):
    peers = [Peer(reader) for _ in range(300)]
    for place, peer in enumerate(peers):
        peer.server.sendall(b"answer %d" % place)
    while not all(peer.reads for peer in peers):
        dispatch(reader)
    assert [peer.reads for peer in peers] == [[b"answer %d" % place] for place in range(300)]
    for peer in peers:
        peer.close()


def test_bad_sockets_and_a_closed_reader_are_errors(reader, tmp_path):
    tap = make_tap(lambda data: None)
    with pytest.raises(OSError, match="Bad file descriptor"):
        reader.add(10_000_000, tap, print)
    with open(tmp_path / "file", "w") as file, pytest.raises(OSError, match="not permitted"):
        reader.add(file.fileno(), tap, print)
    reader.close()
    reader.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        reader.add(0, tap, print)
    reader.take(1)
    reader.remove(1)


def test_the_thread_has_a_name_and_a_clock(reader, peer):
    until(lambda: "bmp-reader\n" in {task.read_text() for task in Path("/proc/self/task").glob("*/comm")})
    before_ns = reader.cpu_ns()
    for _ in range(200):
        peer.send(EVENT)
    assert reader.cpu_ns() > before_ns


# -- stamps of the kernel ----------------------------------------------------------------------------


@pytest.fixture
def stamped_peer(reader: Reader) -> Iterator[Peer]:
    """A TCP connection whose arrivals the kernel has begun to stamp."""
    made = Peer(reader, tcp_pair)
    for _ in range(200):
        made.send(EVENT)
        if reader.counts()["kernel_stamped_reads"]:
            break
        time.sleep(0.005)
    else:
        pytest.skip("this kernel stamps no TCP reads")
    reader.take(made.name)
    made.listen()
    yield made
    made.close()


def test_a_late_read_keeps_the_time_of_its_arrival(reader, stamped_peer):
    peer = stamped_peer
    reader.remove(peer.name)
    before_ns = monotonic_ns()
    peer.server.sendall(HEAD + EVENT)
    until(lambda: unread(peer.client) == len(HEAD + EVENT))
    there_ns = monotonic_ns()
    time.sleep(0.05)
    peer.name = reader.add(peer.client.fileno(), peer.tap, peer.ends.append)
    until(lambda: unread(peer.client) == 0)
    reader.take(peer.name)
    assert len(peer.stamps) == 1
    assert before_ns <= peer.stamps[0] <= there_ns


def test_where_much_arrives_the_thread_naps_and_no_stamp_suffers(reader, stamped_peer):
    peers = [Peer(reader, tcp_pair) for _ in range(40)]
    sends: dict[int, list[tuple[int, int]]] = {peer.name: [] for peer in peers}
    until_s = time.monotonic() + PATIENCE_S
    while reader.counts()["naps"] < 20:
        assert time.monotonic() < until_s, "the thread never napped"
        for peer in peers:
            before_ns = monotonic_ns()
            peer.server.sendall(EVENT)
            sends[peer.name].append((before_ns, monotonic_ns()))
        time.sleep(0.001)
    for peer in peers:
        until(lambda peer=peer: unread(peer.client) == 0)
        reader.take(peer.name)
    assert [sum(map(len, peer.reads)) for peer in peers] == [len(EVENT) * len(sends[peer.name]) for peer in peers]
    in_its_send = []
    for peer in peers:
        read = 0
        for stamp_ns, data in zip(peer.stamps, peer.reads, strict=True):
            read += len(data)
            before_ns, after_ns = sends[peer.name][read // len(EVENT) - 1]  # of the last event that the read brought
            in_its_send.append(before_ns <= stamp_ns <= after_ns)
    assert sum(in_its_send) >= 0.9 * len(in_its_send)
    for peer in peers:
        peer.close()


def test_without_stamps_of_the_kernel_it_never_naps(reader):
    peers = [Peer(reader) for _ in range(40)]
    for _ in range(200):
        for peer in peers:
            peer.server.sendall(EVENT)
    for peer in peers:
        until(lambda peer=peer: unread(peer.client) == 0)
    counts = reader.counts()
    assert counts["reads"] > 0
    assert (counts["kernel_stamped_reads"], counts["naps"]) == (0, 0)
    for peer in peers:
        peer.close()


CLOCK_SET = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (clock == CLOCK_REALTIME && access(AHEAD, F_OK) == 0) now->tv_sec += 3600;
    return failed;
}
"""

READ_ON = """
import sys
from pathlib import Path
from engines.http._stream import Reader
from tests.engines.test_reader import EVENT, Peer, monotonic_ns, tcp_pair, until
reader = Reader()
peer = Peer(reader, tcp_pair)
until(lambda: peer.send(EVENT) or reader.counts()["kernel_stamped_reads"])
reader.take(peer.name)
peer.listen()
before_ns = monotonic_ns()
Path(sys.argv[1]).touch()
peer.send(EVENT)
reader.take(peer.name)
assert len(peer.stamps) == 1 and before_ns <= peer.stamps[0] <= monotonic_ns(), (before_ns, peer.stamps)
"""


def test_a_clock_that_is_set_moves_no_stamp(tmp_path):
    """The machine's clock is not touched: a process of its own sees another, an hour ahead from some point on."""
    compiler, ahead, library = shutil.which("cc"), tmp_path / "ahead", tmp_path / "clock.so"
    if compiler is None:
        pytest.skip("no C compiler")
    (tmp_path / "clock.c").write_text(CLOCK_SET.replace("AHEAD", f'"{ahead}"'))
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "clock.c", "-ldl"], check=True)
    env = {**os.environ, "LD_PRELOAD": str(library)}
    done = subprocess.run([sys.executable, "-c", READ_ON, ahead], env=env, capture_output=True, text=True, timeout=PATIENCE_S * 2)
    assert done.returncode == 0, done.stderr
    assert ahead.exists()


# -- through the pool ------------------------------------------------------------------------------


async def served(*reads: bytes, then: Callable[[], None] = lambda: None) -> tuple[asyncio.Server, int]:
    """A server that answers anything with these, each flushed alone, and then says nothing more."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for data in reads:
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(0.01)
        then()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def test_who_looks_in_mid_answer_catches_up_first():
    quiet = asyncio.Event()
    server, port = await served(HEAD + EVENT, EVENT, EVENT, then=quiet.set)
    pool = Pool("127.0.0.1", port, None)
    recorder = RequestRecorder()
    asking = asyncio.ensure_future(pool.request(b"GET / HTTP/1.1\r\n\r\n", recorder, many_reads=True))
    await quiet.wait()
    assert recorder.payloads == []
    async with asyncio.timeout(PATIENCE_S):
        while b"".join(recorder.payloads) != HEAD + EVENT * 3:
            recorder.catch_up()
            await asyncio.sleep(0.01)
    assert len(recorder.chunk_ns) == len(recorder.payloads)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await pool.close()
    server.close()


async def test_a_cancelled_request_keeps_what_has_arrived():
    quiet = asyncio.Event()
    server, port = await served(HEAD + EVENT, EVENT, then=quiet.set)
    pool = Pool("127.0.0.1", port, None)
    recorder = RequestRecorder()
    asking = asyncio.ensure_future(pool.request(b"GET / HTTP/1.1\r\n\r\n", recorder, many_reads=True))
    await quiet.wait()
    await asyncio.sleep(20 * MS / 1e9)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert b"".join(recorder.payloads) == HEAD + EVENT * 2
    recorder.catch_up()
    assert pool.reading_ns() > 0
    await pool.close()
    server.close()


async def test_the_event_loop_reads_where_the_reader_can_not(monkeypatch):
    class Full:
        def fileno(self) -> int:
            return 0

        def add(self, *_: object) -> int:
            raise OSError(errno.ENOSPC, "no room for another watch")

        def close(self) -> None:
            """Nothing was opened."""

    monkeypatch.setattr(http_pool, "start_reader", lambda loop: Full())
    server, port = await served(HEAD + EVENT + LAST)
    pool = Pool("127.0.0.1", port, None)
    recorder = RequestRecorder()
    async with asyncio.timeout(PATIENCE_S):
        await pool.request(b"GET / HTTP/1.1\r\n\r\n", recorder, many_reads=True)
    assert b"".join(recorder.payloads) == HEAD + EVENT + LAST
    await pool.close()
    server.close()


async def test_a_request_larger_than_the_kernel_takes_at_once_arrives_whole():
    body = bytes(range(256)) * (20 << 12)
    arrived = bytearray()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)
        while len(arrived) < len(body):
            arrived.extend(await reader.read(1 << 16))
        writer.write(HEAD + EVENT + LAST)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    pool = Pool("127.0.0.1", server.sockets[0].getsockname()[1], None)
    for many_reads in (False, True):
        arrived.clear()
        async with asyncio.timeout(PATIENCE_S):
            await pool.request(body, RequestRecorder(), many_reads=many_reads)
        assert arrived == body
        await pool.close()
        pool = Pool("127.0.0.1", server.sockets[0].getsockname()[1], None)
    server.close()
