"""A workload's name or file -> a schedule.  Reads files; all choices are seeded."""

import gzip
import random
import sys
import zlib
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench.workload.arrivals import above_zero, read_arrivals
from bench.workload.decision_log import is_decision_log, read_decisions
from bench.workload.generators import (
    NAMES,
    TokenLengths,
    fitting,
    from_rows,
    multi_turn,
    read_written,
    repeated,
    shared_prefix,
    synthetic,
    timed,
    written,
)
from bench.workload.prompt_formats import read_json
from bench.workload.request_bodies import Api
from bench.workload.schedule import Call, DroppedRows, PartLayout, Schedule, in_order, read_schedule
from bench.workload.trace_formats import read_rows
from bench.workload.trace_rows import FileRows, ReadingOptions, TraceRow
from servekit.errors.tree import SettingInvalid, WorkloadInvalid
from servekit.fleet.fleet import Fleet

# What one request may have where neither a server nor an option says it.
DEFAULT_FIT = 8_192


class WorkloadSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What load is wanted.

    Attributes:
        workload: one of `bench.workload.generators.NAMES`, or a file.
        shares: how much of the load each model gets; any unit.
        rate: requests per second.
        arrivals: a shape of `bench.workload.arrivals`; `trace` keeps a trace's own times, sped up
            to *rate*.
        speed: how many times as fast as its own times a trace is played, instead of *rate*.
        fit: prompt and output tokens that a request may have, together; None for any length.
        reading: how a file is read.
        keeps_models: send a row to the model that its file names.
        turns, turn_delay_s: of a generated conversation; with a delay, turns follow answers.
    """

    workload: str
    shares: dict[str, float]
    requests: int
    rate: float
    arrivals: str
    seed: int
    lengths: TokenLengths = TokenLengths()
    speed: float | None = None
    fit: int | None = DEFAULT_FIT
    reading: ReadingOptions = ReadingOptions()
    keeps_models: bool = False
    turns: int = 5
    turn_delay_s: float | None = None


def make_schedule(ask: WorkloadSpec) -> Schedule:
    """Return the schedule that *ask* describes: always the same for the same ask.

    Raises:
        WorkloadInvalid: there is no such workload, its file cannot be read, or it is empty.
        SettingInvalid: the rate or the arrivals cannot be used.
    """
    if ask.requests < 1:
        raise SettingInvalid(f"number of requests is {ask.requests}; must be at least 1")
    if ask.workload not in NAMES and not Path(ask.workload).is_file():
        names = ", ".join(NAMES)
        raise WorkloadInvalid(
            f"--workload {ask.workload!r} is neither a file nor a built-in workload ({names})"
        )
    if _is_schedule(ask.workload):
        return read_schedule(Path(ask.workload).read_bytes(), ask.workload)
    if ask.speed is not None and ask.workload in NAMES and ask.workload != "mooncake":
        raise _no_times(ask)
    calls, dropped, notes, is_timed = _calls(ask)
    if not calls:
        raise WorkloadInvalid(f"--workload {ask.workload!r}: no request fits into {ask.fit} tokens")
    if ask.arrivals != "trace" or not is_timed:
        shape = "poisson" if ask.arrivals == "trace" else ask.arrivals
        times = read_arrivals(shape, ask.rate)(len(calls), random.Random(ask.seed))
        calls = list(timed(calls, times))
    return in_order(Schedule(Path(ask.workload).name, ask.seed, tuple(calls), dropped, notes))


def _no_times(ask: WorkloadSpec) -> SettingInvalid:
    return SettingInvalid(
        f"--speed is for traces, and --workload {ask.workload!r} has no times; give --rate"
    )


def schedule_for(shape: PartLayout, ask: WorkloadSpec) -> Schedule:
    """Return a schedule as *ask* describes it, with as many requests as *shape* has room for.

    Raises:
        WorkloadInvalid: as for `make_schedule`, or it ends before the last part does.
    """
    # A trace is denser in some stretches than its mean; at its own speed, all of it is at hand.
    requests = round(ask.rate * shape.length_s * 1.5) + 1 if ask.speed is None else sys.maxsize
    schedule = make_schedule(msgspec.structs.replace(ask, requests=requests))
    if schedule.length_s < shape.length_s * 0.95:
        at = f"{ask.rate:g} requests/s" if ask.speed is None else f"{ask.speed:g} times its speed"
        lower = "--rate" if ask.speed is None else "--speed"
        raise WorkloadInvalid(
            f"--workload {ask.workload!r} lasts {schedule.length_s:.0f} s at {at}, but the parts "
            f"take {shape.length_s:.0f} s; lower {lower}, --parts or --part-s"
        )
    return schedule


def trace_on_fleet(fleet: Fleet, rate: float, seed: int) -> WorkloadSpec:
    """Return the built-in trace at *rate*, as far as it fits the models of *fleet*."""
    return WorkloadSpec(
        workload="mooncake",
        shares=fleet_shares(fleet),
        requests=1,
        rate=rate,
        arrivals="trace",
        seed=seed,
        fit=min(model.max_model_len for model in fleet.models),
    )


def read_shares(models: Iterable[str]) -> dict[str, float]:
    """Return how much of the load each of *models* gets: `NAME`, or `NAME=SHARE` in any unit.

    Raises:
        SettingInvalid: a share is no number above 0.
    """
    shares = {}
    for model in models:
        name, given, share = model.rpartition("=")
        shares[name if given else model] = _share(model, share) if given else 1.0
    return shares


def _share(model: str, text: str) -> float:
    share = above_zero(text)
    if share is None:
        raise SettingInvalid(f"--model {model!r}: {text!r} must be a share above 0: NAME=2")
    return share


def fleet_shares(fleet: Fleet) -> dict[str, float]:
    """Return a load that suits *fleet*: a model gets its replicas' worth, a replica that needs two
    GPUs counting half, since it is as much slower."""
    return {
        model.name: len(fleet.replicas_of(model.name)) / model.tensor_parallel_size
        for model in fleet.models
    }


class _Made(NamedTuple):
    """Calls, not yet timed unless *is_timed*; what was left out, and what is to be said of them."""

    calls: list[Call]
    dropped: DroppedRows | None = None
    notes: tuple[str, ...] = ()
    is_timed: bool = False


def _calls(ask: WorkloadSpec) -> _Made:
    shares, n, seed = ask.shares, ask.requests, ask.seed
    if ask.workload == "synthetic":
        return _Made(synthetic(ask.lengths, shares, n, seed))
    if ask.workload == "shared-prefix":
        return _Made(shared_prefix(ask.lengths, shares, n, seed))
    if ask.workload == "multi-turn":
        calls = multi_turn(
            ask.lengths,
            shares,
            n,
            seed,
            turns=ask.turns,
            fit=ask.fit,
            delay_s=ask.turn_delay_s,
        )
        return _Made(calls)
    if ask.workload == "default" or _is_written(ask.workload):
        if ask.speed is not None:
            raise _no_times(ask)
        return _Made(_written(ask))
    return _from_file(ask)


def _is_written(workload: str) -> bool:
    """Whether it is a file like default.json: an object with prompts."""
    if not workload.endswith(".json"):
        return False
    content = _bytes(workload).lstrip()
    return not content.startswith(b"[") and b'"data"' not in content[:4_096]


def _written(ask: WorkloadSpec) -> list[Call]:
    source = ask.workload
    own = resources.files("bench.workload.builtin") / "default.json"
    content = own.read_bytes() if source == "default" else _bytes(source)
    return written(read_written(content, source), list(ask.shares), ask.requests, ask.seed)


def _from_file(ask: WorkloadSpec) -> _Made:
    found = _rows(ask)
    if not found.rows:
        raise WorkloadInvalid(f"{ask.workload}: contains no requests that can be sent")
    every = _with_models(found.rows, ask) if ask.keeps_models else _without_models(found.rows)
    if ask.reading.api is Api.EMBEDDINGS:
        # Nothing is generated, and so nothing of it has to fit.
        every = [msgspec.structs.replace(row, output_tokens=1) for row in every]
    rows, too_long = fitting(every, ask.fit)
    reasons = dict(found.left_out)
    if too_long:
        reasons[f"longer than {ask.fit:,} tokens"] = len(too_long)
    dropped = _dropped(every, too_long, reasons, found.left_out_tokens)
    if not rows:
        return _Made([], dropped)
    if not ask.rate > 0:
        raise SettingInvalid(f"rate is {ask.rate:g}; must be above 0 requests/s")
    if not found.timed:
        if ask.speed is not None:
            raise _no_times(ask)
        notes = _repeats(len(rows), ask.requests)
        rows = repeated(rows, ask.requests)
        return _Made(from_rows(rows, ask.shares, seed=ask.seed, speed=1.0), dropped, notes)
    # The rate is that of the whole trace: a shorter piece of it has the bursts that it has.
    natural = len(rows) / max(rows[-1].at_s, 1.0)
    speed = ask.rate / natural if ask.speed is None else ask.speed
    calls = from_rows(rows, ask.shares, seed=ask.seed, speed=speed)
    return _Made(calls[: ask.requests], dropped, is_timed=True)


def _rows(ask: WorkloadSpec) -> FileRows:
    source = ask.workload
    own = resources.files("bench.workload.traces") / "mooncake_conversation.jsonl"
    content = own.read_bytes() if source == "mooncake" else _unpacked(_bytes(source), source)
    if source.removesuffix(".gz").endswith(".json"):
        return read_json(content, source, ask.reading)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise WorkloadInvalid(f"{source}: not text: {error}; must be JSON lines or CSV") from error
    if is_decision_log(text):
        return FileRows(rows=read_decisions(text, source), timed=True)
    return read_rows(text, source, ask.reading)


def _unpacked(content: bytes, source: str) -> bytes:
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise WorkloadInvalid(f"{source}: not a whole gzip file: {error}") from error


def _with_models(rows: Sequence[TraceRow], ask: WorkloadSpec) -> list[TraceRow]:
    """Return *rows*, whose models are all served.

    Raises:
        WorkloadInvalid: one is not.
    """
    unknown = sorted({row.model for row in rows if row.model} - set(ask.shares))
    if unknown:
        raise WorkloadInvalid(
            f"{ask.workload}: asks for model {unknown[0]!r}, which is not served "
            f"({', '.join(ask.shares)}); give --model NAME to send every request to NAME"
        )
    return list(rows)


def _without_models(rows: Sequence[TraceRow]) -> list[TraceRow]:
    return [msgspec.structs.replace(row, model="") if row.model else row for row in rows]


def _repeats(rows: int, requests: int) -> tuple[str, ...]:
    if requests <= rows:
        return ()
    return (
        f"the workload's file has {rows:,} requests, and {requests:,} are sent: each is repeated "
        f"about {requests / rows:.1f} times, which a prefix cache makes faster",
    )


def _dropped(
    every: Sequence[TraceRow],
    too_long: Sequence[TraceRow],
    reasons: dict[str, int],
    unread_tokens: int,
) -> DroppedRows | None:
    if not reasons:
        return None
    tokens = sum(row.prompt_tokens for row in every) + unread_tokens
    share = (sum(row.prompt_tokens for row in too_long) + unread_tokens) / max(1, tokens)
    return DroppedRows(len(every) + sum(reasons.values()) - len(too_long), reasons, share)


def _bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise WorkloadInvalid(f"{path}: cannot be read: {error.strerror}") from error


def _is_schedule(workload: str) -> bool:
    if workload in NAMES or not workload.endswith(".jsonl"):
        return False
    with Path(workload).open("rb") as lines:
        return lines.readline().startswith(b'{"schedule":')
