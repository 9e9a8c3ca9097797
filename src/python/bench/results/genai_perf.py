"""Records -> the files that genai-perf and aiperf users know.  Pure.

Shapes: genai-perf 0.0.16 and aiperf 0.13.0 (schema 1.4).  Numbers in CSV have no thousands
separators, which genai-perf writes and few tools read.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from bench.loadgen.record import Record
from bench.stats.request_metrics import (
    ANSWER,
    CHUNK,
    DISPATCH,
    EFFECTIVE,
    ISL,
    ITL,
    LATENCY,
    OSL,
    PER_USER,
    PERCENTILES,
    RECEIVING,
    SENDING,
    TTFT,
    TTST,
    Measure,
    Stats,
    Totals,
    measured,
    summarize,
    totals,
)

# aiperf's own labels, where they are not genai-perf's.
_AIPERF_LABELS = {
    TTFT: "Time to First Token",
    ANSWER: "Time to First Output Token",
    TTST: "Time to Second Token",
    EFFECTIVE: "Effective Latency (CO-aware)",
    DISPATCH: "Credit-to-Start Latency",
    SENDING: "HTTP Sending",
    RECEIVING: "HTTP Receiving",
}
_GENAI_ROWS = (TTFT, TTST, LATENCY, ITL, PER_USER, OSL, ISL)
AIPERF_SCHEMA = "1.4"


def genai_csv(records: Sequence[Record]) -> str:
    """Return genai-perf's table of metrics, and the one of totals below it."""
    found, total = summarize(records), totals(records)
    rows: list[list[str]] = [["Metric", "avg", "min", "max", *_genai_percentiles()]]
    for measure in _GENAI_ROWS:
        if measure in found:
            of = found[measure]
            values = [of.avg, of.min, of.max, *(of.percentiles[q] for q in reversed(PERCENTILES))]
            rows.append([f"{measure.label} ({measure.unit})", *(f"{v:.2f}" for v in values)])
    return _csv(rows) + "\n" + _csv([["Metric", "Value"], *_genai_totals(total)])


def genai_json(records: Sequence[Record], input_config: Mapping[str, Any]) -> str:
    """Return the same as JSON, each metric under its snake_case name."""
    found, total = summarize(records), totals(records)
    shown: dict[str, Any] = {
        **_single("request_throughput", "requests/sec", total.request_throughput),
        **{m.key: _genai_stats(m, found[m]) for m in _GENAI_ROWS if m in found},
        **_single("output_token_throughput", "tokens/sec", total.output_token_throughput),
        **_single("request_count", "count", float(total.requests - total.failed)),
        "error_summary": total.errors,
        "error_messages": total.words,
        "input_config": dict(input_config),
    }
    return json.dumps(shown, indent=2) + "\n"


def aiperf_csv(records: Sequence[Record]) -> str:
    """Return profile_export_aiperf.csv."""
    found, total = summarize(records), totals(records)
    names = ["avg", "min", "max", "sum", *(f"p{q}" for q in PERCENTILES), "std"]
    rows = [["Metric", *names]]
    # aiperf sorts its rows by name.
    for measure, of in sorted(found.items(), key=lambda item: _aiperf_label(item[0])):
        values = [of.avg, of.min, of.max, of.sum, *of.percentiles.values(), of.std]
        rows.append([_aiperf_label(measure), *(f"{v:.2f}" for v in values)])
    return _csv(rows) + "\n" + _csv([["Metric", "Value"], *_aiperf_totals(total)])


def aiperf_json(
    records: Sequence[Record],
    *,
    input_config: Mapping[str, Any],
    run_info: Mapping[str, Any],
    start_time: str,
    end_time: str,
    cancelled: bool,
) -> str:
    """Return profile_export_aiperf.json.  Times are ISO 8601."""
    found, total = summarize(records), totals(records)
    shown: dict[str, Any] = {
        "schema_version": AIPERF_SCHEMA,
        "aiperf_version": None,
        "benchmark_id": run_info.get("run"),
        "run_info": dict(run_info),
        "input_config": dict(input_config),
        "was_cancelled": cancelled,
        "is_complete": not cancelled,
        "error_summary": [
            {"error_details": {"type": error, "message": total.words.get(error, "")}, "count": n}
            for error, n in total.errors.items()
        ],
        "start_time": start_time,
        "end_time": end_time,
        **_single("request_throughput", "requests/sec", total.request_throughput),
        **_single("output_token_throughput", "tokens/sec", total.output_token_throughput),
        **_single("request_count", "requests", float(total.requests - total.failed)),
        **_single("error_request_count", "requests", float(total.failed)),
        **_single("request_error_rate", "%", _error_percent(total)),
        **_single("benchmark_duration", "sec", total.duration_s),
        **{measure.key: _aiperf_stats(measure, of) for measure, of in found.items()},
    }
    return json.dumps(shown, indent=2) + "\n"


def aiperf_jsonl(records: Sequence[Record], started_ns: int) -> str:
    """Return profile_export.jsonl: a line per request.  *started_ns* is the run's start, since
    1970."""
    return "".join(
        json.dumps(_aiperf_line(number, one, started_ns)) + "\n"
        for number, one in enumerate(records)
    )


def _aiperf_line(number: int, one: Record, started_ns: int) -> dict[str, Any]:
    line: dict[str, Any] = {
        "metadata": {
            "session_num": number,
            "x_request_id": None,
            "x_correlation_id": None,
            "conversation_id": str(one.conversation),
            "turn_index": 0,
            "credit_issued_ns": _ns(one.due_s, started_ns),
            "request_start_ns": _ns(one.sent_s, started_ns),
            "request_ack_ns": _ns(one.content_s[0], started_ns) if one.content_s else None,
            "request_end_ns": _ns(one.end_s, started_ns),
            "worker_id": one.served_by or None,
            "record_processor_id": None,
            "benchmark_phase": "profiling",
            "phase_index": 0,
            "profiling_index": 0,
            "phase_name": "profiling",
            "phase_kind": "profiling",
            "was_cancelled": False,
            "context_overflow_skip": False,
            "agent_depth": 0,
            "root_correlation_id": None,
            "model": one.model,
            "arm": one.arm,
        },
        "metrics": {},
    }
    if one.ok:
        values = measured(one)
        line["metrics"] = {m.key: {"value": v, "unit": m.unit} for m, v in values.items()}
        gaps = [gap * 1e3 for gap in one.gaps_s]
        line["metrics"][CHUNK.key] = {"value": gaps, "unit": CHUNK.unit}
    else:
        line["error"] = {"type": one.error, "message": one.detail}
    return line


def _ns(seconds: float, started_ns: int) -> int:
    return started_ns + round(seconds * 1e9)


def _genai_totals(total: Totals) -> list[list[str]]:
    return _rows(
        ("Output Token Throughput (tokens/sec)", total.output_token_throughput),
        ("Request Throughput (per sec)", total.request_throughput),
        ("Request Count (count)", total.requests - total.failed),
    )


def _aiperf_label(measure: Measure) -> str:
    return f"{_AIPERF_LABELS.get(measure, measure.label)} ({measure.unit})"


def _aiperf_totals(total: Totals) -> list[list[str]]:
    return _rows(
        ("Benchmark Duration (sec)", total.duration_s),
        ("Completed Requests (Success + Error)", total.requests),
        ("Error Request Count", total.failed),
        ("Output Token Throughput (tokens/sec)", total.output_token_throughput),
        ("Request Count", total.requests - total.failed),
        ("Request Error Rate (%)", _error_percent(total)),
        ("Request Throughput (requests/sec)", total.request_throughput),
        ("Total Output Tokens (tokens)", total.output_tokens),
    )


def _rows(*rows: tuple[str, float | None]) -> list[list[str]]:
    """What is unknown has no row: a reader of the table would take an empty cell for 0."""
    return [[label, f"{value:.2f}"] for label, value in rows if value is not None]


def _error_percent(total: Totals) -> float:
    return 100.0 * total.failed / total.requests if total.requests else 0.0


def _genai_percentiles() -> list[str]:
    return [f"p{q}" for q in reversed(PERCENTILES)]


def _genai_stats(measure: Measure, of: Stats) -> dict[str, Any]:
    percentiles = {f"p{q}": of.percentiles[q] for q in reversed(PERCENTILES)}
    return {
        "unit": measure.unit,
        "avg": of.avg,
        **percentiles,
        "min": of.min,
        "max": of.max,
        "std": of.std,
    }


def _aiperf_stats(measure: Measure, of: Stats) -> dict[str, Any]:
    return {
        "unit": measure.unit,
        "avg": of.avg,
        **{f"p{q}": value for q, value in of.percentiles.items()},
        "min": of.min,
        "max": of.max,
        "std": of.std,
        "count": of.count,
        "sum": of.sum,
    }


def _single(key: str, unit: str, value: float | None) -> dict[str, Any]:
    """One number under its name; what is unknown is not there."""
    return {} if value is None else {key: {"unit": unit, "avg": value}}


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
