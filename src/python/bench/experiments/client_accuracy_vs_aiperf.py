"""aiperf and this client against the same upstream, in one run.  Input and output.

The upstream is `bench.target.mock_server`: its timing is known, so each tool's error can be read
off.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench.experiments.aiperf_run import (
    ProcessTimes,
    argv_for,
    read_aiperf,
    run_aiperf,
    write_tokenizer,
)
from bench.experiments.client_accuracy import (
    ITL_MS,
    TOKENS,
    TTFT_MS,
    ClientAccuracy,
    measure_accuracy,
)
from bench.report.tables import number
from bench.results.files import make_folder
from bench.target.processes import Program, stopped_at_the_end


class ToolAccuracy(msgspec.Struct, frozen=True, kw_only=True):
    """What one tool said at one concurrency, less the truth."""

    tool: str
    concurrency: int
    ttft_error_mean_ms: float
    ttft_error_p99_ms: float
    requests_per_s: float
    cpu_ms: float | None


def table(aiperf: str, concurrencies: Sequence[int], seconds: float, folder: Path) -> str:
    """Return a Markdown table of both tools at each of *concurrencies*."""
    readings = [_ours(one) for one in measure_accuracy(concurrencies, seconds, folder / "mock.log")]
    *delayed, at_once = readings
    ours, start = _starts(aiperf, folder)
    for users in concurrencies:
        requests = round(seconds / (TTFT_MS + ITL_MS * (TOKENS - 1)) * 1e3 * users)
        delayed.append(_aiperf(aiperf, users, requests, TTFT_MS, ITL_MS, start, folder))
    highest = _aiperf(aiperf, max(concurrencies), round(400 * seconds), 0.0, 0.0, start, folder)
    lines = [
        f"TTFT {TTFT_MS:g} ms, ITL {ITL_MS:g} ms, {TOKENS} tokens; errors in ms.\n",
        "| tool | concurrency | TTFT error mean | p99 | requests/s | CPU ms per request |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_line(one) for one in sorted(delayed, key=lambda one: one.concurrency)),
        *(_line(one, " no delay") for one in (at_once, highest)),
        "",
        f"A run of one request, start and end with it: servekit {ours.wall_s:.1f} s and "
        f"{ours.cpu_s:.1f} s of CPU, aiperf {start.wall_s:.1f} s and {start.cpu_s:.1f} s; the "
        "latter is taken off its CPU per request.",
    ]
    return "\n".join(lines) + "\n"


def _line(one: ToolAccuracy, note: str = "") -> str:
    errors = ("", "") if note else (one.ttft_error_mean_ms, one.ttft_error_p99_ms)
    shown = [e if isinstance(e, str) else number(e, sign=True) for e in errors]
    rate, cpu = number(one.requests_per_s), number(one.cpu_ms)
    return f"| {one.tool} | {one.concurrency}{note} | {shown[0]} | {shown[1]} | {rate} | {cpu} |"


def _ours(one: ClientAccuracy) -> ToolAccuracy:
    return ToolAccuracy(
        tool="servekit",
        concurrency=one.concurrency,
        ttft_error_mean_ms=one.ttft_error_mean_ms,
        ttft_error_p99_ms=one.ttft_error_p99_ms,
        requests_per_s=one.requests_per_s,
        cpu_ms=one.cpu_ms,
    )


def _aiperf(
    program: str,
    users: int,
    requests: int,
    ttft_ms: float,
    itl_ms: float,
    start: ProcessTimes,
    at: Path,
) -> ToolAccuracy:
    """Run aiperf against a mock of its own, and read its export back; *start* is what it costs to
    do nothing."""
    place = at / f"aiperf-{users}-{ttft_ms:g}"
    with _mock(ttft_ms, itl_ms, at) as url:
        spent = run_aiperf(_argv(program, url, users, requests, place))
    found = read_aiperf(place / "profile_export_aiperf.json")
    return ToolAccuracy(
        tool="aiperf",
        concurrency=users,
        ttft_error_mean_ms=found["time_to_first_token"]["avg"] - ttft_ms,
        ttft_error_p99_ms=found["time_to_first_token"]["p99"] - ttft_ms,
        requests_per_s=found["request_throughput"]["avg"],
        cpu_ms=max(0.0, spent.cpu_s - start.cpu_s) / max(1, requests) * 1e3,
    )


@contextmanager
def _mock(ttft_ms: float, itl_ms: float, folder: Path) -> Iterator[str]:
    timing = ["--ttft-ms", str(ttft_ms), "--itl-ms", str(itl_ms), "--tokens", str(TOKENS)]
    with stopped_at_the_end() as programs:
        programs.append(
            Program("mock", ["bench.target.mock_server", *timing], log=folder / "mock.log")
        )
        yield programs[-1].ready()["url"]


def _starts(program: str, folder: Path) -> tuple[ProcessTimes, ProcessTimes]:
    """Return what one single request costs with each tool, as a program: ours, then aiperf's."""
    with _mock(0.0, 0.0, folder) as url:
        own = [sys.executable, "-m", "bench.runner", "run"]  # pants: no-infer-dep
        own += ["--url", url, "--model", "mock"]
        own += ["--request-count", "1", "--output-dir", str(folder / "own")]
        ours = run_aiperf(own)
        return ours, run_aiperf(_argv(program, url, 1, 1, folder / "aiperf-start"))


def _argv(program: str, url: str, users: int, requests: int, place: Path) -> list[str]:
    make_folder(place)
    return [
        *argv_for(program, url, "mock", place, write_tokenizer(place)),
        *("--endpoint-type", "completions", "--streaming", "--concurrency", str(users)),
        *("--request-count", str(requests), "--synthetic-input-tokens-mean", "8"),
        *("--output-tokens-mean", str(TOKENS), "--warmup-request-count", str(users)),
        *("--random-seed", "1"),
    ]
