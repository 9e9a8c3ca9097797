"""A schedule -> what aiperf replays; what aiperf exports -> records.  Pure.

aiperf 0.13: a `mooncake-trace` whose lines hold whole request bodies, and profile_export.jsonl.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from bench.loadgen.record import Record
from bench.workload.schedule import Call, Schedule
from servekit.errors.tree import EngineError


def aiperf_input(schedule: Schedule, body: Callable[[Call], bytes], *, timed: bool) -> bytes:
    """Return *schedule* as lines for aiperf: each call's very body, and with *timed* when it is
    due."""
    return b"".join(_input_line(call, body(call), timed) + b"\n" for call in schedule.calls)


def _input_line(call: Call, body: bytes, timed: bool) -> bytes:
    line: dict[str, Any] = {"payload": msgspec.Raw(body), "output_length": call.output_tokens}
    if timed:
        line["timestamp"] = call.at_s * 1e3
    return msgspec.json.encode(line)


class _Metadata(msgspec.Struct, frozen=True):
    session_num: int
    credit_issued_ns: int
    request_start_ns: int
    request_end_ns: int
    benchmark_phase: str = "profiling"


class _Metric(msgspec.Struct, frozen=True):
    value: float | list[float]


class _Failure(msgspec.Struct, frozen=True):
    type: str = ""
    message: str = ""
    code: int | None = None


class _Line(msgspec.Struct, frozen=True):
    metadata: _Metadata
    metrics: dict[str, _Metric] = {}
    error: _Failure | None = None


_decode = msgspec.json.Decoder(_Line).decode


def aiperf_records(
    lines: bytes, schedule: Schedule, arm: str, *, timed: bool, source: str
) -> list[Record]:
    """Return the requests that aiperf made of *schedule*, in its order.

    Where it was *timed*, a request is due when the schedule says so, counted such that none was
    sent early; elsewhere it was due when aiperf let it go.

    Raises:
        EngineError: *lines* are no profile_export.jsonl of aiperf's for this schedule.
    """
    try:
        read = [_decode(line) for line in lines.splitlines() if line.strip()]
    except msgspec.DecodeError as error:
        raise EngineError(f"{source}: not an export of aiperf 0.13: {error}") from error
    made = {one.metadata.session_num: one for one in read if _counts(one)}
    if not made or max(made) >= len(schedule.calls):
        raise EngineError(
            f"{source}: {len(made)} requests in the export, {len(schedule.calls)} in the schedule"
        )
    zero_s = min(_issued_s(one) - schedule.calls[n].at_s for n, one in made.items())
    if not timed:
        zero_s = min(_issued_s(one) for one in made.values())
    return [
        _record(one, schedule.calls[n], arm, zero_s, timed=timed) for n, one in sorted(made.items())
    ]


def _counts(line: _Line) -> bool:
    return line.metadata.benchmark_phase == "profiling"


def _issued_s(line: _Line) -> float:
    return line.metadata.credit_issued_ns / 1e9


def _record(line: _Line, call: Call, arm: str, zero_s: float, *, timed: bool) -> Record:
    sent_s = line.metadata.request_start_ns / 1e9 - zero_s
    return Record(
        arm=arm,
        part=1 if timed else 0,
        part_s=call.at_s,
        model=call.model,
        conversation=call.conversation,
        asked_prompt_tokens=call.prompt_tokens,
        asked_output_tokens=call.output_tokens,
        due_s=call.at_s if timed else _issued_s(line) - zero_s,
        sent_s=sent_s,
        wrote_s=None,
        content_s=_content_s(line, sent_s),
        end_s=line.metadata.request_end_ns / 1e9 - zero_s,
        error=_error(line.error),
        detail=line.error.message[:200] if line.error else "",
        prompt_tokens=_count(line, "usage_prompt_tokens"),
        completion_tokens=_count(line, "usage_completion_tokens"),
        answer_s=_since(line, "time_to_first_output_token", sent_s),
    )


def _since(line: _Line, name: str, sent_s: float) -> float | None:
    found = line.metrics.get(name)
    return None if found is None or isinstance(found.value, list) else sent_s + found.value / 1e3


def _content_s(line: _Line, sent_s: float) -> tuple[float, ...]:
    first, gaps = line.metrics.get("time_to_first_token"), line.metrics.get("inter_chunk_latency")
    if first is None or isinstance(first.value, list):
        return ()
    after = gaps.value if gaps is not None and isinstance(gaps.value, list) else []
    times_ms = itertools.accumulate(after, initial=first.value)
    return tuple(sent_s + ms / 1e3 for ms in times_ms)


def _count(line: _Line, name: str) -> int | None:
    found = line.metrics.get(name)
    return None if found is None or isinstance(found.value, list) else round(found.value)


def _error(failure: _Failure | None) -> str | None:
    """Statuses as this client names them; the rest by aiperf's own names."""
    if failure is None:
        return None
    return f"http {failure.code}" if failure.code else failure.type or "failed"


def ended_records(records: Sequence[Record], schedule: Schedule) -> bool:
    """Whether every call of *schedule* has a record."""
    return len(records) == len(schedule.calls)
