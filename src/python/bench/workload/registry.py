"""A workload's name or file -> a schedule.  Reads files; all choices are seeded."""

import random
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

import msgspec

from bench.workload.arrivals import above_zero, read_arrivals
from bench.workload.decision_log import is_decision_log, read_decisions
from bench.workload.generators import (
    NAMES,
    TokenLengths,
    from_trace,
    multi_turn,
    read_written,
    shared_prefix,
    synthetic,
    timed,
    written,
)
from bench.workload.schedule import Call, DroppedRows, PartLayout, Schedule, in_order, read_schedule
from bench.workload.trace_formats import TraceRow, read_trace
from servekit.errors.tree import SettingInvalid, WorkloadInvalid
from servekit.fleet.fleet import Fleet


class WorkloadSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What load is wanted.

    Attributes:
        workload: one of `bench.workload.generators.NAMES`, or a file.
        shares: how much of the load each model gets; any unit.
        rate: requests per second.
        arrivals: a shape of `bench.workload.arrivals`; `trace` keeps a trace's own times, sped up
            to *rate*.
        fit: prompt and output tokens that a request may have, together.
    """

    workload: str
    shares: dict[str, float]
    requests: int
    rate: float
    arrivals: str
    seed: int
    lengths: TokenLengths = TokenLengths()
    fit: int = 8_192


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
    calls, dropped = _calls(ask)
    if not calls:
        raise WorkloadInvalid(f"--workload {ask.workload!r}: no request fits into {ask.fit} tokens")
    if not (ask.arrivals == "trace" and calls[-1].at_s > 0):
        shape = "poisson" if ask.arrivals == "trace" else ask.arrivals
        times = read_arrivals(shape, ask.rate)(len(calls), random.Random(ask.seed))
        calls = list(timed(calls, times))
    return in_order(Schedule(Path(ask.workload).name, ask.seed, tuple(calls), dropped))


def schedule_for(
    shape: PartLayout,
    workload: str,
    shares: dict[str, float],
    rate: float,
    arrivals: str,
    seed: int,
) -> Schedule:
    """Return a schedule long enough for *shape*.

    Raises:
        WorkloadInvalid: as for `make_schedule`, or it ends before the last part does.
    """
    schedule = make_schedule(
        WorkloadSpec(
            workload=workload,
            shares=shares,
            # A trace is denser in some stretches than its mean.
            requests=round(rate * shape.length_s * 1.5) + 1,
            rate=rate,
            arrivals=arrivals,
            seed=seed,
        )
    )
    if schedule.length_s < shape.length_s * 0.95:
        raise WorkloadInvalid(
            f"--workload {workload!r} lasts {schedule.length_s:.0f} s at {rate:g} requests/s, but "
            f"the parts take {shape.length_s:.0f} s; lower --rate, --parts or --part-s"
        )
    return schedule


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


def _calls(ask: WorkloadSpec) -> tuple[list[Call], DroppedRows | None]:
    """Return the calls, not yet timed unless they come from a trace, and what was left out."""
    shares, n, seed = ask.shares, ask.requests, ask.seed
    if ask.workload == "synthetic":
        return synthetic(ask.lengths, shares, n, seed), None
    if ask.workload == "shared-prefix":
        return shared_prefix(ask.lengths, shares, n, seed), None
    if ask.workload == "multi-turn":
        return multi_turn(ask.lengths, shares, n, seed, fit=ask.fit), None
    if ask.workload == "default" or ask.workload.endswith(".json"):
        return _written(ask), None
    return _traced(ask)


def _written(ask: WorkloadSpec) -> list[Call]:
    source = ask.workload
    own = resources.files("bench.workload.builtin") / "default.json"
    content = own.read_bytes() if source == "default" else _bytes(source)
    return written(read_written(content, source), list(ask.shares), ask.requests, ask.seed)


def _traced(ask: WorkloadSpec) -> tuple[list[Call], DroppedRows | None]:
    source = ask.workload
    own = resources.files("bench.workload.traces") / "mooncake_conversation.jsonl"
    content = own.read_bytes() if source == "mooncake" else _bytes(source)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise WorkloadInvalid(f"{source}: not text: {error}; must be JSON lines or CSV") from error
    read = read_decisions if is_decision_log(text) else read_trace
    every = read(text, source)
    rows = [r for r in every if r.prompt_tokens + r.output_tokens <= ask.fit]
    dropped = _dropped(every, rows, ask.fit)
    if not rows:
        return [], dropped
    if not ask.rate > 0:
        raise SettingInvalid(f"rate is {ask.rate:g}; must be above 0 requests/s")
    # The rate is that of the whole trace: a shorter piece of it has the bursts that it has.
    natural = len(rows) / max(rows[-1].at_s, 1.0)
    calls = from_trace(rows, ask.shares, seed=ask.seed, speed=ask.rate / natural, fit=ask.fit)
    return calls[: ask.requests], dropped


def _dropped(every: Sequence[TraceRow], kept: Sequence[TraceRow], fit: int) -> DroppedRows | None:
    if len(every) == len(kept):
        return None
    tokens = sum(row.prompt_tokens for row in every)
    share = 1.0 - sum(row.prompt_tokens for row in kept) / tokens
    return DroppedRows(len(every) - len(kept), len(every), share, fit)


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
