"""A run -> the files of its folder.  Pure."""

from collections.abc import Sequence

import msgspec

from bench.loadgen.record import write_records
from bench.loadgen.run_result import RunResult
from bench.loadgen.server_metrics import write_snapshots
from bench.results.genai_perf import aiperf_csv, aiperf_json, aiperf_jsonl, genai_csv, genai_json
from bench.stats.factorial import CELLS, GridRun
from bench.stats.verdict import ComparedRun
from bench.workload.schedule import write_schedule


def raw_files(run: RunResult) -> dict[str, bytes | str]:
    """Return what cannot be made again: the rest of a run's directory is made from these."""
    return {
        "records.msgpack": write_records(run.records),
        "manifest.json": pretty(run.manifest),
        "schedule.jsonl": write_schedule(run.schedule),
        "snapshots.jsonl": write_snapshots(run.snapshots),
    }


def export_files(run: RunResult) -> dict[str, bytes | str]:
    """Return the records of *run* in the formats of genai-perf and aiperf."""
    records, started = run.records, run.started
    config = {**run.manifest.get("options", {}), "partial": run.partial}
    ended = started.timestamp() + max((r.end_s for r in records), default=0.0)
    as_genai = {"csv": genai_csv(records), "json": genai_json(records, config)}
    return {
        **{f"profile_export.{kind}": text for kind, text in as_genai.items()},
        **{f"profile_export_genai_perf.{kind}": text for kind, text in as_genai.items()},
        "profile_export_aiperf.csv": aiperf_csv(records),
        "profile_export_aiperf.json": aiperf_json(
            records,
            input_config=config,
            run_info=run.manifest.get("schedule") or {},
            start_time=started.isoformat(),
            end_time=started.fromtimestamp(ended, started.tzinfo).isoformat(),
            cancelled=run.partial,
        ),
        "profile_export.jsonl": aiperf_jsonl(records, round(started.timestamp() * 1e9)),
    }


def comparison_json(compared: ComparedRun, folders: Sequence[Sequence[str]]) -> bytes:
    """Return comparison.json: verdict first, then a row per metric.

    *folders* are those of each arm's runs, baseline first, from the one that this is written to.
    """
    found, validity = compared.comparison, compared.validity
    shown = {
        "verdict": found.verdict if validity.valid else "invalid",
        "reason": found.reason if validity.valid else "; ".join(validity.reasons),
        "partial": compared.run.partial,
        "interleaved": compared.run.interleaved,
        "valid": validity.valid,
        "baseline": found.baseline,
        "candidate": found.candidate,
        "folders": folders,
        "confidence": found.confidence,
        "turns": None if found.apart else found.turns,
        "runs": [len(runs) for runs in folders],
        "min_effect": found.min_effect,
        "share_of_look": found.share,
        "metrics": {row.key: row for row in found.rows},
        "validity": validity,
        "manifest": compared.run.manifest,
    }
    return pretty(shown)


def grid_json(grid: GridRun) -> bytes:
    """Return grid.json: the effects on every metric."""
    shown = {
        "verdict": grid.sentence if grid.validity.valid else "invalid",
        "turns": grid.turns,
        "cells": dict(zip(CELLS, grid.targets, strict=True)),
        "values": grid.values,
        "effects": grid.effects,
        "validity": grid.validity,
        "manifest": grid.run.manifest,
    }
    return pretty(shown)


def pretty(value: object) -> bytes:
    """Return *value* as JSON for people."""
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2) + b"\n"
