"""Recorded measurements of an engine, read from a folder; its README says what each file holds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.twin.step_fit import DecodePoint, StepLog, TtftPoint
from servekit.errors.tree import WorkloadInvalid

# What steps.npz counts its milliseconds from, seconds since 1970.
STEPS_SINCE_S = 1_795_234_300


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """One request of a recorded load: when it was sent, its lengths, and when its first and last
    tokens came (seconds from sent)."""

    sent_s: float
    prompt_tokens: int
    output_tokens: int
    ttft_s: float
    last_s: float


@dataclass(frozen=True, slots=True)
class RecordedLoad:
    """A load, as the real engine served it.

    Attributes:
        itl_s: p50, p90 and p99 of all gaps between tokens.
        curve: (seconds from start, running, KV usage 0.0 to 1.0), once a second.
        began_s, length_s: when it was sent (seconds since 1970), and until it was answered.
    """

    name: str
    requests: tuple[LoadRequest, ...]
    itl_s: tuple[float, float, float]
    curve: tuple[tuple[float, int, float], ...]
    began_s: float = 0.0
    length_s: float = 0.0


def read_decode(folder: Path) -> list[DecodePoint]:
    """Return the decode measurements."""
    return [
        DecodePoint(
            sequences=row["N"],
            kv_tokens=row["N"] * (row["ctx"] + row["mean_pos"]),
            step_s=row["step_ms"] / 1e3,
            p90_s=row["itl_ms"][1] / 1e3,
        )
        for row in _read(folder / "C_warm.json")
    ]


def read_ttft(folder: Path) -> list[TtftPoint]:
    """Return the TTFTs of an idle engine, with and without a cached prefix."""
    cold = [TtftPoint(row["n"], row["med"] / 1e3) for row in _read(folder / "B_cold.json")]
    hits = [
        TtftPoint(row["n"], float(np.median(row["full_hit"])) / 1e3, row["n"] - 1)
        for row in _read(folder / "Bpre_cold.json")
    ]
    return [*cold, *hits]


def read_steps(folder: Path, kv_cache_tokens: int, without: RecordedLoad | None = None) -> StepLog:
    """Return the log of every step under load, but for those of the load *without*."""
    with np.load(folder / "steps.npz") as stored:
        steps = stored["steps"]
    if without is not None:
        since_s = STEPS_SINCE_S + steps["ms"] / 1e3 - without.began_s
        steps = steps[(since_s < 0) | (since_s > without.length_s)]
    return StepLog(
        ended_ms=steps["ms"].astype(np.float64),
        waited_ms=steps["elapsed_us"] / 1e3,
        prompts=steps["context_requests"].astype(np.float64),
        prompt_tokens=steps["context_tokens"].astype(np.float64),
        decoding=steps["decoding"].astype(np.float64),
        kv_tokens=steps["kv_permille"] / 1e3 * kv_cache_tokens,
    )


def read_loads(folder: Path) -> list[RecordedLoad]:
    """Return the loads, lightest first.

    Raises:
        WorkloadInvalid: there is none, or a file cannot be read.
    """
    files = sorted(folder.glob("Dreq_*.json"))
    if not files:
        raise WorkloadInvalid(f"{folder}: contains no recorded load (Dreq_*.json)")
    loads = [_load(file, folder / file.name.replace("Dreq_", "D_")) for file in files]
    return sorted(loads, key=lambda load: len(load.requests) / load.length_s)


def _load(requests: Path, about: Path) -> RecordedLoad:
    summary = _read(about)
    p50, p90, p99 = summary["summary"]["itl"][:3]
    return RecordedLoad(
        name=f"{summary['summary']['rate']} requests/s",
        requests=tuple(
            LoadRequest(r["send"], r["n_in"], r["n_out"], r["ttft"], r["last"] - r["send"])
            for r in sorted(_read(requests), key=lambda r: r["send"])
            if r["st"] == 200
        ),
        itl_s=(p50 / 1e3, p90 / 1e3, p99 / 1e3),
        curve=tuple(
            (m["t"], int(m["num_requests_running"]), m["kv_cache_usage_perc"])
            for m in summary["metrics"]
        ),
        began_s=summary["summary"]["wall_t0"],
        length_s=summary["summary"]["end_s"],
    )


def _read(path: Path) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise WorkloadInvalid(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise WorkloadInvalid(f"{path}: not JSON: {error}") from error
