"""aiperf and our client on the same servers: where they agree, and where they differ.

    python -m tests.bench.experiments.aiperf_agreement --aiperf PATH [NAME …]

Every behaviour of tests/support/odd_behaviours, or those that are named, is asked by both, slowed
down so that a client's own delay is small beside what it measures.  Prints a Markdown table: each
measure of the request that was delayed least, and whether the two agree within 2 %.

    python -m tests.bench.experiments.aiperf_agreement --exports OURS THEIRS

Of two folders that `runner run` and `runner aiperf` left, which measured the same schedule on one
server: the least of each measure that both have, which neither client's own delay is in.  Input
and output.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.experiments.aiperf_run import argv_for, write_tokenizer
from servekit.client.client import Client
from servekit.client.outcome import Outcome
from servekit.timing.clock import SystemClock
from tests.support.odd_behaviours import BEHAVIOURS
from tests.support.odd_server import Behaviour, OddServer, odd_server, truth_of

# Tokens are 0.4 s apart, so that a client that is 4 ms late is 1 % off.
SCALE = 20.0
REQUESTS = 5
WITHIN = 0.02
TIMEOUT_S = 30.0

ENDPOINTS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/messages": "anthropic_messages",
}

# Our name -> aiperf's key in profile_export.jsonl.
MEASURES = {
    "TTFT": "time_to_first_token",
    "first answer token": "time_to_first_output_token",
    "E2E": "request_latency",
    "time per token": "inter_token_latency",
    "output tokens": "output_sequence_length",
}


@dataclass(frozen=True, slots=True)
class Measured:
    """What one tool says of one server.

    Attributes:
        values: the least of each measure, in ms or tokens; None where it gives none.
        error: what it calls the failure of its requests; empty where they were answered.
    """

    values: dict[str, float | None]
    error: str = ""


def of_outcomes(outcomes: Sequence[Outcome]) -> Measured:
    """Return what our client says."""
    failed = [one for one in outcomes if not one.ok]
    if failed:
        return Measured({}, f"{failed[0].error}: {failed[0].detail}")
    return Measured(
        {
            "TTFT": _least([_ms(one.first_content_s, one.sent_s) for one in outcomes]),
            "first answer token": _least([_ms(one.answer_s, one.sent_s) for one in outcomes]),
            "E2E": _least([_ms(one.last_token_s, one.sent_s) for one in outcomes]),
            "time per token": _least([_ms(one.token_time_s, 0.0) for one in outcomes]),
            "output tokens": _least([one.completion_tokens for one in outcomes]),
        }
    )


def of_export(lines: str) -> Measured:
    """Return what aiperf's profile_export.jsonl says."""
    read = [json.loads(line) for line in lines.splitlines() if line.strip()]
    read = [one for one in read if one["metadata"]["benchmark_phase"] == "profiling"]
    failed = [one["error"] for one in read if one.get("error")]
    if failed:
        said = f"{failed[0].get('code') or ''} {failed[0].get('type')}: {failed[0].get('message')}"
        return Measured({}, " ".join(said.split())[:90])
    values = {
        name: _least([one["metrics"].get(key, {}).get("value") for one in read])
        for name, key in MEASURES.items()
    }
    return Measured(values, "" if read else "no record")


def _least(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return min(known) if known and len(known) == len(values) else None


def _ms(at_s: float | None, since_s: float) -> float | None:
    return None if at_s is None else (at_s - since_s) * 1e3


async def ask_with_ours(url: str, behaviour: Behaviour) -> Measured:
    client = Client(f"{url}/{behaviour.name}", SystemClock(), timeout_s=TIMEOUT_S)
    body = json.dumps({"model": "m", "stream": True, "messages": []}).encode()
    outcomes = await asyncio.gather(*(client.send(behaviour.path, body) for _ in range(REQUESTS)))
    await client.aclose()
    return of_outcomes(outcomes)


async def ask_with_aiperf(program: str, url: str, behaviour: Behaviour) -> Measured:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        argv = [
            *argv_for(program, f"{url}/{behaviour.name}", "m", folder, write_tokenizer(folder)),
            *("--endpoint-type", ENDPOINTS[behaviour.path], "--streaming"),
            *("--request-count", str(REQUESTS), "--concurrency", str(REQUESTS)),
            *("--isl", "9", "--osl", "6", "--request-timeout-seconds", str(TIMEOUT_S)),
        ]
        process = await asyncio.create_subprocess_exec(
            *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await process.communicate()
        export = folder / "profile_export.jsonl"
        if not export.exists():
            return Measured({}, f"no export: {said.decode()[-200:]!r}")
        return of_export(export.read_text())


def true_values(behaviour: Behaviour, server: OddServer) -> dict[str, float | None]:
    """Return what was true of the server's last answer, in ms and tokens."""
    truth = truth_of(behaviour.steps, server.written_s[behaviour.name])
    return {
        "TTFT": _ms(truth.ttft_s, 0.0),
        "first answer token": _ms(truth.answer_s, 0.0),
        "E2E": _ms(truth.e2e_s, 0.0),
        "time per token": _ms(truth.token_time_s, 0.0),
        "output tokens": behaviour.counted,
    }


def rows_of(
    name: str, true: dict[str, float | None], ours: Measured, theirs: Measured
) -> list[list[str]]:
    """Return a row for each measure on which the tools or the truth differ; one if none does."""
    if ours.error or theirs.error:
        return [[name, "outcome", "", ours.error or "answered", theirs.error or "answered", ""]]
    rows = []
    for measure in MEASURES:
        mine, other = ours.values[measure], theirs.values[measure]
        if not _agree(mine, other):
            rows.append([name, measure, _text(true[measure]), _text(mine), _text(other), "differ"])
    return rows or [[name, "all", "", "", "", "agree"]]


def _agree(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= WITHIN * max(abs(one), abs(other))


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.1f}"


async def compare(program: str, behaviours: Sequence[Behaviour]) -> None:
    head = ["behaviour", "measure", "true", "ours", "aiperf", ""]
    _write([head, ["---"] * len(head)])
    for behaviour in behaviours:
        async with odd_server([behaviour], SCALE) as (url, server):
            theirs = await ask_with_aiperf(program, url, behaviour)
            ours = await ask_with_ours(url, behaviour)
            _write(rows_of(behaviour.name, true_values(behaviour, server), ours, theirs))


def export_rows(ours: dict[str, Any], theirs: dict[str, Any]) -> list[list[str]]:
    """Return a row for each measure that both summaries have."""
    rows = []
    for name in sorted(ours.keys() & theirs.keys()):
        mine, other = _least_of(ours[name]), _least_of(theirs[name])
        if mine is not None and other is not None:
            off = f"{mine / other - 1.0:+.1%}" if other else "-"
            agree = "agree" if _agree(mine, other) else "differ"
            rows.append([name, f"{mine:,.2f}", f"{other:,.2f}", off, agree])
    return rows


def _least_of(of: Any) -> float | None:
    """A total, such as a throughput, has one value only."""
    return of.get("min", of.get("avg")) if isinstance(of, dict) and "unit" in of else None


def compare_exports(ours: Path, theirs: Path) -> None:
    """Compare our summary with aiperf's own, which `runner aiperf` keeps below its folder."""
    _write([["measure", "ours", "aiperf", "difference", ""], ["---"] * 5])
    own = json.loads((ours / "profile_export_aiperf.json").read_text())
    _write(
        export_rows(own, json.loads((theirs / "aiperf" / "profile_export_aiperf.json").read_text()))
    )


def _write(rows: Sequence[Sequence[Any]]) -> None:
    for row in rows:
        sys.stdout.write(f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--aiperf", default="aiperf", help="the aiperf 0.13 program")
    parser.add_argument("--exports", nargs=2, type=Path, help="two folders of results")
    parser.add_argument("names", nargs="*", help="behaviours; all without")
    asked = parser.parse_args()
    if asked.exports:
        compare_exports(*asked.exports)
        return
    chosen = [one for one in BEHAVIOURS if not asked.names or one.name in asked.names]
    asyncio.run(compare(asked.aiperf, chosen))


if __name__ == "__main__":
    main()
