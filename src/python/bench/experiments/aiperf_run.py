"""Run aiperf, and read its exports back.  Input and output."""

import json
import resource
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from bench.loadgen.client_load import ClientLoad
from bench.loadgen.run_result import LoadResult
from bench.loadgen.session import Endpoint, book_for
from bench.results.aiperf import aiperf_input, aiperf_records, ended_records
from bench.results.context import RunContext
from bench.results.files import make_folder, write_file
from bench.target.arms import Arm
from bench.workload.schedule import Schedule
from servekit.errors.tree import EngineError, SettingInvalid

_WORDS = 1_000

# Its own start takes 6 s; a run longer than an hour is no benchmark.
_TIMEOUT_S = 3_600.0


class ProcessTimes(msgspec.Struct, frozen=True):
    """What a run of a program cost.

    Attributes:
        cpu_s: its processor time, that of its children with it.
    """

    wall_s: float
    cpu_s: float


def measure_with_aiperf(
    program: str, arm: Arm, schedule: Schedule, users: int | None, context: RunContext, folder: Path
) -> LoadResult:
    """Let aiperf put the load of *schedule* on *arm*, its files into *folder*; return what it
    measured.

    Every request has the very body that our own client sends.  An open loop keeps the schedule's
    times; a closed one has so many *users*.

    Raises:
        SettingInvalid: there is no such program.
        EngineError: it failed, or exported something else.
    """
    make_folder(folder)
    timed = users is None
    body = book_for(schedule, context.endpoint).body
    write_file(folder / "input.jsonl", aiperf_input(schedule, body, timed=timed))
    argv = [
        *argv_for(program, arm.url, schedule.models[0], folder, write_tokenizer(folder)),
        *_how(context.endpoint),
        *("--input-file", str(folder / "input.jsonl"), "--custom-dataset-type", "mooncake-trace"),
        *_load(schedule, users),
    ]
    started = datetime.now(UTC)
    spent = run_aiperf(argv)
    export = folder / "profile_export.jsonl"
    try:
        lines = export.read_bytes()
    except OSError as error:
        raise EngineError(f"{export}: aiperf wrote no export: {error.strerror}") from error
    records = aiperf_records(lines, schedule, arm.name, timed=timed, source=str(export))
    return LoadResult(
        records=records,
        burden=ClientLoad(
            wall_s=spent.wall_s,
            cpu_s=spent.cpu_s,
            cores=1,
            lag_p50_ms=None,
            lag_p99_ms=None,
        ),
        started=started,
        partial=not ended_records(records, schedule),
    )


def _how(endpoint: Endpoint) -> list[str]:
    """Return how aiperf sends the bodies that it is given."""
    argv = ["--endpoint-type", str(endpoint.shape.api)]
    argv += ["--streaming"] if endpoint.shape.streams else []
    argv += ["--custom-endpoint", endpoint.path] if endpoint.path else []
    for name, value in endpoint.headers.items():
        argv += ["--header", f"{name}:{value}"]
    return argv


def _load(schedule: Schedule, users: int | None) -> list[str]:
    if users is None:
        return ["--fixed-schedule"]
    count = len(schedule.calls)
    return ["--no-fixed-schedule", "--concurrency", str(users), "--request-count", str(count)]


def argv_for(program: str, url: str, model: str, folder: Path, tokenizer: Path) -> list[str]:
    """Return what every run of aiperf's has here: no screen, no hub, the upstream's own counts."""
    return [
        *(program, "profile", "--model", model, "--url", url, "--use-server-token-count"),
        *("--tokenizer", str(tokenizer), "--ui-type", "none", "--artifact-dir", str(folder)),
    ]


def write_tokenizer(folder: Path) -> Path:
    """Write a tokenizer of a thousand words: aiperf needs one to make prompts, and would ask a
    hub for it.  Answers are counted by the upstream."""
    place = folder / "tokenizer"
    make_folder(place)
    model = {"type": "WordLevel", "vocab": {f"w{n}": n for n in range(_WORDS)}, "unk_token": "w0"}
    tokenizer = {"version": "1.0", "pre_tokenizer": {"type": "Whitespace"}, "model": model}
    nothing = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    content = json.dumps({**tokenizer, **nothing, "added_tokens": []})
    write_file(place / "tokenizer.json", content)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0", "eos_token": "w1"}
    write_file(place / "tokenizer_config.json", json.dumps(config))
    return place


def run_aiperf(argv: Sequence[str]) -> ProcessTimes:
    """Run the program; return what it cost.

    Raises:
        SettingInvalid: there is no such program.
        EngineError: it failed; the message has its last line.
    """
    before, started_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    try:
        done = subprocess.run(  # noqa: S603
            argv, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except OSError as error:
        raise SettingInvalid(
            f"{argv[0]} cannot be run: {error.strerror}; install aiperf in a separate "
            "environment and set --aiperf"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise EngineError(
            f"{argv[0]} did not end within {_TIMEOUT_S:g} s; reduce --num-requests"
        ) from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [""]
        raise EngineError(f"{argv[0]} ended with {done.returncode}: {said[-1][:300]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return ProcessTimes(time.monotonic() - started_s, cpu_s)


def read_aiperf(path: Path) -> dict[str, Any]:
    """Return aiperf's own summary.

    Raises:
        EngineError: it is not there, or not JSON.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise EngineError(f"{path}: not an aiperf export: {error}") from error
    return found
