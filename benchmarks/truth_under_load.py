"""How far the reported TTFT is from the truth, while the load grows.

    BMP_TOOLS=folder python benchmarks/truth_under_load.py [--rates 200,500,1000,2000] [--seconds 8]

Poisson arrivals, TTFT 50 ms, ITL 10 ms, 32 tokens, one core for the client. The C server keeps its own
truth: when each request arrived and when its first token was written. Shows, for each rate, ours and,
in the same minute, the C client's:

- reported minus true TTFT, p50 and p99. Ours is joined request by request, from `sent` (what the
  client's stamps get wrong) and from `planned` (the headline, in which a late send counts);
  the C client sends no request id, so its error is the difference of percentiles, and ours is given that way, too;
- index of dispersion of the arrivals that the server saw (Poisson: 1), and its ratio to the C client's.

Bounds, at 1,000 and 2,000 requests/s: 0.5 ms at p50, 5 ms at p99, dispersion within 20 % of the C client's.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

from harness import Run, c_client, judged, mock_server, our_run, percentile, say_machine

from bytemlperf.arrivals.delivered import count_dispersion, rate_of
from bytemlperf.units import NS_PER_MS

TTFT_MS, ITL_MS, TOKENS = 50, 10, 32
P50_BOUND_MS, P99_BOUND_MS, DISPERSION_BOUND = 0.5, 5.0, 0.2
JUDGED_FROM = 1_000.0


class Truth(NamedTuple):
    """What the server saw. TTFTs in ms, by request id where the client sent one."""

    ttft_ms: dict[str, float]
    offered: float
    dispersion: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default="200,500,1000,2000")
    parser.add_argument("--seconds", type=float, default=8.0)
    arguments = parser.parse_args()
    say_machine()
    print("reported − true TTFT, ms: p50 / p99")
    for text in arguments.rates.split(","):
        rate = float(text)
        with mock_server(TTFT_MS, ITL_MS) as server:
            measure(server, rate, max(100, round(rate * arguments.seconds)))


def measure(server, rate: float, requests: int) -> None:
    server.get("/reset")
    floor = c_client(server.port, round(rate * 0.5) + 16, requests, TOKENS, rate)
    c_truth = truth_of(server.log())
    server.get("/reset")
    poisson = ("--request-rate", rate, "--burstiness", 1.0)  # whatever the scenario's own arrivals
    ours = our_run(server.url, *poisson, "--num-prompts", requests, "--output-len", TOKENS, keep_records=True)
    sent = {record["id"] for record in ours.records}
    truth = truth_of([row for row in server.log() if row["rid"] in sent])  # not the request that asks whether the server is up
    show(rate, floor, c_truth, ours, truth)


def truth_of(rows: list[dict[str, str]]) -> Truth:
    rows = [row for row in rows if int(row["first_ns"])]
    arrivals = sorted(int(row["arr_ns"]) for row in rows)
    ttft = {row["rid"] or str(place): (int(row["first_ns"]) - int(row["arr_ns"])) / NS_PER_MS for place, row in enumerate(rows)}
    return Truth(ttft, rate_of(arrivals) or 0.0, count_dispersion(arrivals) or 0.0)


def show(rate: float, floor: dict, c_truth: Truth, ours: Run, truth: Truth) -> None:
    joined = [
        (record, truth.ttft_ms[record["id"]]) for record in ours.records if record["outcome"] == "ok" and record["id"] in truth.ttft_ms
    ]
    sent = [first_ms(record) - record["sent_ns"] / NS_PER_MS - true for record, true in joined]
    planned = [first_ms(record) - record["planned_ns"] / NS_PER_MS - true for record, true in joined]
    reported = [first_ms(record) - record["sent_ns"] / NS_PER_MS for record, _ in joined]
    c_true = list(c_truth.ttft_ms.values())
    c_error = (floor["ttft"][0] - percentile(c_true, 50), floor["ttft"][2] - percentile(c_true, 99))
    apart = tuple(percentile(reported, percent) - percentile(list(truth.ttft_ms.values()), percent) for percent in (50, 99))
    dispersion = truth.dispersion / c_truth.dispersion - 1 if c_truth.dispersion else float("nan")
    print(f"\n{rate:g} requests/s, {len(ours.records)} requests, {len(joined)} answered and known to the server")
    c_busy = floor["cpu"] / floor["wall"]
    c_arrivals = f"offered {c_truth.offered:7.1f}, dispersion {c_truth.dispersion:.2f}, {c_busy:.0%} busy"
    print(f"  C      {c_error[0]:7.3f} / {c_error[1]:7.3f}   {c_arrivals}")
    print(
        f"  ours   {percentile(sent, 50):7.3f} / {percentile(sent, 99):7.3f}   offered {truth.offered:7.1f}, "
        f"dispersion {truth.dispersion:.2f} ({dispersion:+.0%} of C's), loop {ours.run['facts']['loop_utilisation']:.0%} busy, "
        f"{ours.summary['verdict']}"
    )
    print(f"         {percentile(planned, 50):7.3f} / {percentile(planned, 99):7.3f}   from planned")
    print(f"         {apart[0]:7.3f} / {apart[1]:7.3f}   as the C client's, difference of percentiles", flush=True)
    if rate >= JUDGED_FROM:
        p50, p99 = judged(percentile(sent, 50), P50_BOUND_MS), judged(percentile(sent, 99), P99_BOUND_MS)
        print(f"  p50 {p50}, p99 {p99}, dispersion {judged(abs(dispersion), DISPERSION_BOUND)}")


def first_ms(record: dict) -> float:
    """Stamp of the first chunk that carries a token."""
    return next(stamp for stamp, tokens in zip(record["chunk_ns"], record["tokens_per_chunk"], strict=True) if tokens) / NS_PER_MS


if __name__ == "__main__":
    main()
