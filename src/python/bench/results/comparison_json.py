"""A run -> the files of its folder.  Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from bench.loadgen.record import Record, write_records
from bench.loadgen.server_metrics import ServerSnapshot, write_snapshots
from bench.loadgen.session import LoadResult
from bench.results.genai_perf import aiperf_csv, aiperf_json, aiperf_jsonl, genai_csv, genai_json
from bench.stats.comparison import Comparison
from bench.stats.validity import Validity
from bench.workload.schedule import Schedule, write_schedule

Files = dict[str, bytes | str]


def raw_files(
    records: Sequence[Record],
    schedule: Schedule,
    snapshots: Sequence[ServerSnapshot],
    manifest: Mapping[str, Any],
) -> Files:
    """Return what cannot be made again: the rest of a run's folder can, from these."""
    return {
        "records.msgpack": write_records(records),
        "manifest.json": pretty(dict(manifest)),
        "schedule.jsonl": write_schedule(schedule),
        "snapshots.jsonl": write_snapshots(snapshots),
    }


def run_files(
    records: Sequence[Record], measured: LoadResult, manifest: Mapping[str, Any]
) -> Files:
    """Return the exports of one arm's *records*."""
    config = {**manifest.get("options", {}), "partial": measured.partial}
    start_ns = round(measured.started.timestamp() * 1e9)
    ended = measured.started.timestamp() + max((r.end_s for r in records), default=0.0)
    as_genai = {
        "csv": genai_csv(records),
        "json": genai_json(records, config),
    }
    return {
        **{f"profile_export.{kind}": text for kind, text in as_genai.items()},
        **{f"profile_export_genai_perf.{kind}": text for kind, text in as_genai.items()},
        "profile_export_aiperf.csv": aiperf_csv(records),
        "profile_export_aiperf.json": aiperf_json(
            records,
            input_config=config,
            run_info=manifest.get("schedule") or {},
            start_time=measured.started.isoformat(),
            end_time=measured.started.fromtimestamp(ended, measured.started.tzinfo).isoformat(),
            cancelled=measured.partial,
        ),
        "profile_export.jsonl": aiperf_jsonl(records, start_ns),
    }


def comparison_json(
    found: Comparison,
    validity: Validity,
    *,
    partial: bool,
    apart: bool,
    folders: Sequence[str],
    manifest: Mapping[str, Any],
) -> bytes:
    """Return comparison.json: verdict first, then a row per metric.

    *folders* are those of the arms, baseline first, from the one that this is written to.
    """
    shown = {
        "verdict": found.verdict if validity.valid else "invalid",
        "reason": found.reason if validity.valid else "; ".join(validity.reasons),
        "partial": partial,
        "interleaved": not apart,
        "valid": validity.valid,
        "baseline": found.baseline,
        "candidate": found.candidate,
        "folders": list(folders),
        "confidence": found.confidence,
        "windows": found.windows,
        "resamples": found.resamples,
        "metrics": {row.key: row for row in found.rows},
        "validity": validity,
        "manifest": dict(manifest),
    }
    return pretty(shown)


def pretty(value: object) -> bytes:
    """Return *value* as JSON for people."""
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2) + b"\n"
