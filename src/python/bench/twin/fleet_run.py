"""Schedules and fleet files -> what a simulated fleet is made of.  Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bench.fleetsim.outcome import OK, STATUS, FleetOutcome
from bench.fleetsim.scenario import Arrival, Autoscale, ReplicaFailure, ReplicaSetup
from bench.loadgen.record import Record
from bench.workload.schedule import Call
from servekit.enginesim.setup import engine_setup
from servekit.errors.tree import SettingInvalid
from servekit.fleet.fleet import Fleet

SHARES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """How one policy served a schedule.  Times are milliseconds, at SHARES.

    Attributes:
        wall_s: what the simulation took; everything else is virtual.
        per_token_ms: each request's mean time per token after its first.
        digest: equal only for runs that are equal to the bit.
    """

    policy: str
    requests: int
    failed: int
    errors: dict[str, int]
    ttft_ms: tuple[float, ...]
    itl_ms: tuple[float, ...]
    e2e_ms: tuple[float, ...]
    per_token_ms: tuple[float, ...]
    output_tokens_per_s: float
    requests_per_s: float
    hit_rate: float
    preemptions: int
    retries: int
    replica_hours: float
    virtual_s: float
    wall_s: float
    digest: str


def result_of(
    policy: str, outcome: FleetOutcome, wall_s: float, jitter_s: float = 0.0
) -> PolicyResult:
    """Return the figures of *outcome*."""
    seconds = max(outcome.end_s, 1e-9)
    errors: dict[str, int] = {}
    for status in outcome.status:
        if status != OK:
            errors[STATUS[status]] = errors.get(STATUS[status], 0) + 1
    return PolicyResult(
        policy=policy,
        requests=outcome.requests,
        failed=outcome.failed,
        errors=errors,
        ttft_ms=_ms(outcome.ttft_quantiles(SHARES)),
        itl_ms=_ms(outcome.gaps.quantiles(SHARES, jitter_s)),
        e2e_ms=_ms(outcome.e2e_quantiles(SHARES)),
        per_token_ms=_ms(outcome.per_token_quantiles(SHARES)),
        output_tokens_per_s=outcome.tokens / seconds,
        requests_per_s=(outcome.requests - outcome.failed) / seconds,
        hit_rate=outcome.hit_rate,
        preemptions=outcome.preemptions,
        retries=outcome.retries,
        replica_hours=outcome.replica_s / 3600,
        virtual_s=outcome.end_s,
        wall_s=wall_s,
        digest=outcome.digest(),
    )


def arrivals_of(calls: Iterable[Call]) -> Iterator[Arrival]:
    """Yield *calls*, in order of time, as they reach a load balancer.

    The last block of a prompt is shared only where it is a full one.
    """
    for call in calls:
        yield Arrival(
            at_s=call.at_s,
            model=call.model,
            prompt_tokens=call.prompt_tokens,
            output_tokens=call.output_tokens,
            segments=call.segments,
            session=str(call.conversation),
        )


def longest(calls: Sequence[Call]) -> int:
    """Return the prompt and output tokens of the longest call."""
    return max(call.prompt_tokens + call.output_tokens for call in calls)


def total_tokens(calls: Sequence[Call]) -> tuple[int, int]:
    """Return the prompt tokens and output tokens that *calls* ask for."""
    return sum(c.prompt_tokens for c in calls), sum(c.output_tokens for c in calls)


def setups_of(
    fleet: Fleet, *, replicas: int | None = None, gpu: str | None = None, context: int = 0
) -> tuple[ReplicaSetup, ...]:
    """Return the engines of *fleet*.

    Args:
        replicas: of each model, instead of those in the file; they repeat the file's in turn.
        gpu: the type of every GPU, instead of the file's.
        context: tokens that every model takes at least; 0 for what the file says.
    """
    if replicas is not None and replicas < 1:
        raise SettingInvalid(f"--replicas is {replicas}; must be at least 1")
    setups = []
    for model in fleet.models:
        own = fleet.replicas_of(model.name)
        for number in range(len(own) if replicas is None else replicas):
            like = own[number % len(own)]
            name = like.name if number < len(own) else f"{model.short_name}-{number + 1}"
            engine = engine_setup(model, gpu or like.gpu)
            length = max(engine.max_model_len, context)
            setups.append(
                ReplicaSetup(name, model.name, engine.calibration, length, options=engine.options)
            )
    return tuple(setups)


def read_failure(text: str) -> ReplicaFailure:
    """Return the failure in `REPLICA@AT+DOWN`, seconds: `llama-8b-1@60+45`.

    Raises:
        SettingInvalid: it is not one.
    """
    name, _, rest = text.rpartition("@")
    start, plus, down = rest.partition("+")
    try:
        if not name or not plus:
            raise ValueError("'@' and '+' are required")
        return ReplicaFailure(name, float(start), float(down))
    except ValueError as error:
        raise SettingInvalid(
            f"--fail {text!r}: {error}; must have the form REPLICA@AT+DOWNTIME"
        ) from error


def read_autoscale(text: str, start_s: float) -> Autoscale:
    """Return the rule in `IN_FLIGHT:MAX`: requests in flight per replica, replicas per model.

    Raises:
        SettingInvalid: it is not one.
    """
    try:
        in_flight, _, most = text.partition(":")
        return Autoscale(in_flight=float(in_flight), most=int(most), start_s=start_s)
    except ValueError as error:
        raise SettingInvalid(
            f"--autoscale {text!r}: {error}; must have the form IN_FLIGHT:MAX"
        ) from error


def records_of(
    calls: Sequence[Call],
    outcome: FleetOutcome,
    policy: str,
    parts: Sequence[tuple[int, float]] | None = None,
) -> list[Record]:
    """Return *outcome*, which kept every token's time, as a real run would have recorded it.

    Args:
        parts: the part of each call, and when in it the call is due; by default one part, 0.
    """
    records = []
    for place, number in enumerate(outcome.number):
        call = calls[number]
        ok = outcome.status[place] == OK
        end = call.at_s + outcome.e2e_s[place]
        replica = outcome.replica[place]
        part, part_s = parts[number] if parts else (0, call.at_s)
        records.append(
            Record(
                arm=policy,
                part=part,
                part_s=part_s,
                model=call.model,
                conversation=call.conversation,
                asked_prompt_tokens=call.prompt_tokens,
                asked_output_tokens=call.output_tokens,
                due_s=call.at_s,
                sent_s=call.at_s,
                wrote_s=call.at_s,
                content_s=tuple(outcome.token_s[number]) if ok else (),
                end_s=end if ok else call.at_s,
                error=None if ok else STATUS[outcome.status[place]],
                prompt_tokens=call.prompt_tokens if ok else None,
                completion_tokens=call.output_tokens if ok else None,
                served_by=outcome.replica_names[replica] if replica >= 0 else "",
            )
        )
    return sorted(records, key=lambda record: record.due_s)


def _ms(seconds: Iterable[float]) -> tuple[float, ...]:
    return tuple(value * 1e3 for value in seconds)
