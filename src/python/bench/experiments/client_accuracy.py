"""How well does this client measure, on this machine?  Input and output.

It is pointed at `bench.target.mock_server`, whose timing is known, in a process of its own; what
differs from the known timing is the error of client, mock and machine together: an upper bound of
the client's.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import uvloop
from rich.table import Table

from bench.loadgen.client_load import few_collections
from bench.report.tables import number
from bench.target.processes import Program, stopped_at_the_end
from servekit.client.client import COMPLETIONS, Client
from servekit.client.outcome import Outcome
from servekit.timing.clock import SystemClock

TTFT_MS = 50.0
ITL_MS = 10.0
TOKENS = 20

_BODY = (
    b'{"model":"mock","prompt":[1,2,3],"max_tokens":20,"stream":true,'
    b'"stream_options":{"include_usage":true}}'
)


class ClientAccuracy(msgspec.Struct, frozen=True, kw_only=True):
    """The client against a known upstream, at one concurrency.

    Attributes:
        ttft_error_mean_ms, ttft_error_p99_ms: measured TTFT less the true one, over requests.
        itl_error_mean_ms: the same for gaps between tokens.
        cpu_ms: the client's processor time per request.
    """

    concurrency: int
    requests: int
    failed: int
    requests_per_s: float
    ttft_error_mean_ms: float
    ttft_error_p99_ms: float
    itl_error_mean_ms: float
    cpu_ms: float


def measure_accuracy(
    concurrencies: Sequence[int], seconds: float, log: Path
) -> list[ClientAccuracy]:
    """Return the client's errors at each of *concurrencies*, and last, undelayed, its highest
    rate."""
    found: list[ClientAccuracy] = []
    with stopped_at_the_end() as programs:
        delayed = ["--ttft-ms", str(TTFT_MS), "--itl-ms", str(ITL_MS), "--tokens", str(TOKENS)]
        at_once = ["--ttft-ms", "0", "--itl-ms", "0", "--tokens", str(TOKENS)]
        urls = []
        for argv in (delayed, at_once):
            programs.append(Program("mock", ["bench.target.mock_server", *argv], log=log))
            urls.append(programs[-1].ready()["url"])
        with few_collections():
            found += [_one(urls[0], users, seconds, TTFT_MS, ITL_MS) for users in concurrencies]
            found.append(_one(urls[1], max(concurrencies), seconds, 0.0, 0.0))
    return found


def _one(
    url: str, concurrency: int, seconds: float, ttft_ms: float, itl_ms: float
) -> ClientAccuracy:
    cpu_s, started_s = time.process_time(), time.monotonic()
    outcomes = uvloop.run(_load(url, concurrency, seconds))
    wall_s, cpu_s = time.monotonic() - started_s, time.process_time() - cpu_s
    good = [one for one in outcomes if one.ok]
    ttft = np.array([one.content_s[0] - one.sent_s for one in good] or [np.nan]) * 1e3
    gaps = np.concatenate([np.diff(one.content_s) for one in good] or [np.array([np.nan])]) * 1e3
    return ClientAccuracy(
        concurrency=concurrency,
        requests=len(outcomes),
        failed=len(outcomes) - len(good),
        requests_per_s=len(good) / wall_s,
        ttft_error_mean_ms=float(ttft.mean()) - ttft_ms,
        ttft_error_p99_ms=float(np.percentile(ttft, 99)) - ttft_ms,
        itl_error_mean_ms=float(gaps.mean()) - itl_ms,
        cpu_ms=cpu_s / max(1, len(outcomes)) * 1e3,
    )


async def _load(url: str, concurrency: int, seconds: float) -> list[Outcome]:
    """Keep *concurrency* requests under way; all start at once, as the seeds' tools do."""
    client = Client(url, SystemClock())
    outcomes: list[Outcome] = []
    until_s = time.monotonic() + seconds

    async def user() -> None:
        while time.monotonic() < until_s:
            outcomes.append(await client.send(COMPLETIONS, _BODY))

    # The first requests also pay for connecting, which is not what is asked here.
    await asyncio.gather(*(client.send(COMPLETIONS, _BODY) for _ in range(concurrency)))
    await asyncio.gather(*(user() for _ in range(concurrency)))
    await client.aclose()
    return outcomes


def accuracy_table(found: Sequence[ClientAccuracy]) -> Table:
    """Return a line per concurrency; the last one is undelayed, where only the rate means much."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in (
        "users",
        "TTFT error mean (ms)",
        "TTFT error p99 (ms)",
        "ITL error mean (ms)",
        "requests/s",
        "CPU per request (ms)",
        "failed",
    ):
        table.add_column(heading, justify="right")
    *delayed, at_once = found
    for one in delayed:
        table.add_row(
            str(one.concurrency),
            number(one.ttft_error_mean_ms, sign=True),
            number(one.ttft_error_p99_ms, sign=True),
            number(one.itl_error_mean_ms, sign=True),
            number(one.requests_per_s),
            number(one.cpu_ms),
            str(one.failed),
        )
    table.add_row(
        f"{at_once.concurrency}, no delay",
        "",
        "",
        "",
        number(at_once.requests_per_s),
        number(at_once.cpu_ms),
        str(at_once.failed),
    )
    return table
