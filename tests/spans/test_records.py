"""Records read back with what the server's spans say of them, and from folders that lie."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bytemlperf.runs.files import SPANS
from bytemlperf.runs.records import RunRecords
from bytemlperf_llm.record import spans as kept_spans
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.record.spans import JoinedSpans
from engines.contract import ServerFacts, Stages
from tests.metrics.records import answered

STAGES = Stages(queued_ns=1, scheduled_ns=2, first_token_ns=3, last_token_ns=4)


def read(folder: Path, spans: bytes) -> list[RequestRecord]:
    server = ServerFacts(durations_ns={"cache": 7, "queue": 8}, request_id="theirs")
    records = [msgspec.structs.replace(answered(0, None, 0.0, [5.0]), server=server), answered(1, None, 0.0, [5.0])]
    (folder / "records.jsonl").write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in records))
    (folder / SPANS).write_bytes(spans)
    return list(RunRecords(folder, RequestRecord))


def test_a_record_has_the_heads_facts_and_the_spans(tmp_path: Path) -> None:
    line = msgspec.json.encode(JoinedSpans(id="r0", durations_ns={"queue": 9}, stages=STAGES)) + b"\n"
    first, second = read(tmp_path, line)
    assert first.server == ServerFacts(durations_ns={"cache": 7, "queue": 9}, request_id="theirs")
    assert first.stages == STAGES
    assert (second.server, second.stages) == (None, None)


@pytest.mark.parametrize("spans", [b"", b"{", b'{"id":"r0","stages":{"queued_ns":1e400}}\n', b'{"id":1}\n', b'["r0"]\n', b"\xff\n"])
def test_lines_that_are_none_change_nothing(tmp_path: Path, spans: bytes) -> None:
    first, _ = read(tmp_path, spans)
    assert first.stages is None


def test_a_link_or_a_file_beyond_its_size_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = msgspec.json.encode(JoinedSpans(id="r0", stages=STAGES)) + b"\n"
    monkeypatch.setattr(kept_spans, "MAX_FILE_BYTES", len(line) - 1)
    assert read(tmp_path, line)[0].stages is None
    (tmp_path / "elsewhere").write_bytes(line)
    (tmp_path / SPANS).unlink()
    (tmp_path / SPANS).symlink_to("elsewhere")
    assert next(iter(RunRecords(tmp_path, RequestRecord))).stages is None
