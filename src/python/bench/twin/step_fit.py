"""Measurements of an engine -> a step profile.  Pure: least squares on values that were read.

Two kinds of evidence make a profile.  From outside, what a client sees of an idle engine (TTFT by
prompt length, ITL by batch and context) is enough for every part, and is all that a live engine
offers.  From inside, vLLM's log of every step under load says what a step costs among others, how
long the launch of a large step holds back the tokens of the one before, and how much slower a GPU
reads prompts that has just read others, as it reaches its power limit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

import numpy as np
from numpy.typing import NDArray

from servekit.enginesim.step_profile import Knots, StepProfile, interpolate
from servekit.errors.tree import WorkloadInvalid

Floats = NDArray[np.float64]

BATCHES = (1, 4, 8, 16, 32, 64, 128, 256, 512)
PROMPTS = (32, 128, 256, 512, 1024, 2048, 4096, 8192)

# A stretch of steps is timed between two decode steps that end when the log says so: a step that
# the log waited for, after a step without prompt tokens.
_WAITED_MS = 2.0
_LONGEST = 60

# Steps of more tokens are not CUDA graphs (vLLM's max_cudagraph_capture_size).
_CAPTURED = 512

# Share of a step that reading the context can be at most.
_MOST_READING = 0.9

# How fast heat follows: of 0.01 to 10 s, what leaves the least unexplained; 0.035 and 0.07 s leave
# as much to within 1 %.
_HOT_AFTER_S = 0.05


@dataclass(frozen=True, slots=True)
class DecodePoint:
    """Seconds per step of *sequences* that decode over *kv_tokens* in all, and its spread."""

    sequences: int
    kv_tokens: float
    step_s: float
    p90_s: float


@dataclass(frozen=True, slots=True)
class TtftPoint:
    """Seconds to the first token of a prompt, alone; *cached_tokens* of it were cached."""

    prompt_tokens: int
    ttft_s: float
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class StepLog:
    """Every step of an engine, a column each, in order.

    Attributes:
        ended_ms: when it was logged.
        waited_ms: how long the engine waited for it.
        prompts, prompt_tokens: of the step.
        decoding: sequences that decoded.
        kv_tokens: in use.
    """

    ended_ms: Floats
    waited_ms: Floats
    prompts: Floats
    prompt_tokens: Floats
    decoding: Floats
    kv_tokens: Floats


def fit_profile(
    name: str,
    decode: Sequence[DecodePoint],
    ttft: Sequence[TtftPoint],
    *,
    budget: int = 8192,
    log: StepLog | None = None,
    idle_start_s: float = 0.0,
) -> StepProfile:
    """Return the profile that the measurements say.

    *budget* is max_num_batched_tokens; *idle_start_s*, part of the front end's share of an idle
    TTFT, is what a busy engine hides behind the step before.

    Raises:
        WorkloadInvalid: too little was measured.
    """
    if len(decode) < 2 or len([p for p in ttft if not p.cached_tokens]) < 2:
        raise WorkloadInvalid("a profile needs at least two decode points and two prompt lengths")
    if min(point.step_s for point in decode) <= 0 or min(point.ttft_s for point in ttft) <= 0:
        raise WorkloadInvalid("a step time is 0: tokens were not received one by one")
    knots, per_kv = _decode(decode, log)
    base, extra = knots[0][1], tuple((x, y - knots[0][1]) for x, y in knots)
    launch_s: tuple[float, ...] = ()
    token_s = _frontend_token_s(ttft, per_kv, base)
    pair_s = _pair_s(ttft, budget, token_s)
    if log is None:
        front_s = _front_from_hits(ttft, base, token_s) or 0.0
        forward, mixed = _forward_idle(ttft, budget, front_s, token_s, pair_s), per_kv
        hot_s = 0.0
    else:
        forward, mixed, hot_s = _forward_logged(log, base, extra, per_kv, pair_s)
        front_s = _front(ttft, forward, token_s, pair_s)
        launch_s = _launch_s(log)
    # A step with prompt tokens is never cheaper than one without.
    floor = [(0.0, base), *((x, max(base, y)) for x, y in forward)]
    return StepProfile(
        name=name,
        forward_s=tuple(floor),
        decode_s=((0.0, 0.0), *extra),
        kv_token_s=per_kv,
        mixed_kv_token_s=mixed,
        attended_pair_s=pair_s,
        frontend_s=max(0.0, front_s - idle_start_s),
        frontend_token_s=token_s,
        idle_start_s=idle_start_s,
        launch_s=launch_s,
        hot_token_s=hot_s,
        hot_after_s=_HOT_AFTER_S,
        jitter_s=_jitter_s(decode),
    )


def _hats(x: float, knots: Sequence[float]) -> Floats:
    """Return how much each knot counts at *x*: straight lines between neighbours."""
    unit = np.eye(len(knots))
    at = min(max(x, knots[0]), knots[-1])
    return np.array([np.interp(at, knots, row) for row in unit])


def _decode(decode: Sequence[DecodePoint], log: StepLog | None) -> tuple[Knots, float]:
    """Return the seconds of a step without context by batch, and the seconds per context token.

    The latter comes from batches that were measured at several contexts.  The former comes from
    the log where it has such batches: among arrivals and endings a step takes some 0.3 ms longer.
    """
    most = max(point.sequences for point in decode)
    batches = [b for b in BATCHES if b <= most] or [1]
    alone = [(float(p.sequences), p.kv_tokens, p.step_s) for p in decode]
    # Reading the context is part of a step, whatever a noisy measurement says.
    whole = min(point.step_s / point.kv_tokens for point in decode if point.kv_tokens)
    per_kv = min(max(0.0, float(_by_batch(alone, batches, None)[-1])), _MOST_READING * whole)
    if log is not None:
        steps = _decode_steps(log)
        seen = float(np.quantile([sequences for sequences, _, _ in steps], 0.998))
        alone = [*steps, *(point for point in alone if point[0] > seen)]
    # Noise must not make a larger batch cheaper.
    rising = np.maximum.accumulate(_by_batch(alone, batches, per_kv))
    return tuple((float(b), float(s)) for b, s in zip(batches, rising, strict=True)), per_kv


def _by_batch(
    steps: Sequence[tuple[float, float, float]], batches: Sequence[int], per_kv: float | None
) -> Floats:
    """Return the seconds at each of *batches*, and after them those per context token where
    *per_kv* does not say."""
    sequences, kv, seconds = (
        np.array(column, dtype=np.float64) for column in zip(*steps, strict=True)
    )
    rows = np.array([_hats(number, batches) for number in sequences])
    if per_kv is None:
        return _solve(np.column_stack([rows, kv]), seconds, 1 / seconds)
    # The log's milliseconds are coarse: a weight by the value would favour those rounded down.
    return _solve(rows, seconds - per_kv * kv, np.ones_like(seconds))


def _decode_steps(log: StepLog) -> list[tuple[float, float, float]]:
    """Return (sequences, context tokens, seconds) of decode steps that follow one another."""
    firm = _firm(log)
    seconds = np.diff(log.ended_ms) / 1e3
    chosen = np.flatnonzero(firm[1:] & firm[:-1] & (seconds < 0.02) & (seconds > 0)) + 1
    return [
        (float(log.decoding[k]), float(log.kv_tokens[k]), float(seconds[k - 1])) for k in chosen
    ]


def _firm(log: StepLog) -> NDArray[np.bool_]:
    """Return which steps were logged at the moment they ended."""
    plain = (log.prompt_tokens == 0) & (log.decoding > 0)
    firm: NDArray[np.bool_] = plain & (log.waited_ms > _WAITED_MS)
    firm[1:] &= plain[:-1]
    return firm


def _forward_logged(
    log: StepLog, base: float, extra: Knots, per_kv: float, pair_s: float
) -> tuple[Knots, float, float]:
    """Return the forward pass by prompt tokens, the seconds per context token beside them, and
    those per prompt token where the GPU is hot.

    Stretches between two firm decode steps are summed, so that it does not matter how the engine
    overlaps scheduling and computing within one.
    """
    firm, heat = _firm(log), _heat(log)
    rows, values = [], []
    last: int | None = None
    for step in range(len(firm)):
        if log.decoding[step] == 0:
            # The engine may have been idle before it.
            last = None
        if not firm[step]:
            continue
        if last is not None and step - last <= _LONGEST:
            inside = range(last + 1, step + 1)
            if any(log.prompt_tokens[k] for k in inside):
                row, known = _stretch(log, heat, inside, base, extra, per_kv, pair_s)
                rows.append(row)
                values.append((log.ended_ms[step] - log.ended_ms[last]) / 1e3 - known)
        last = step
    if len(rows) < 10 * len(PROMPTS):
        raise WorkloadInvalid(f"{len(rows)} stretches with prompts in the log; measure for longer")
    array, wanted = np.array(rows), np.array(values)
    solved = _solve(array, wanted, 1 / np.sqrt(np.maximum(wanted, 3e-3)))
    knots = tuple((float(p), float(s)) for p, s in zip(PROMPTS, solved[:-2], strict=True))
    return knots, float(solved[-2]), max(0.0, float(solved[-1]))


def _heat(log: StepLog) -> Floats:
    """Return how hot the GPU is as each step begins: the share of the last moments in which it
    read prompts, as `Engine` reckons it."""
    ends = _gpu_ended_ms(log)
    heat, before = 0.0, ends[0]
    felt = []
    for ended, tokens in zip(ends, log.prompt_tokens, strict=True):
        felt.append(heat)
        read = float(tokens > 0)
        heat = read + (heat - read) * exp(-max(0.0, ended - before) / 1e3 / _HOT_AFTER_S)
        before = ended
    return np.array(felt)


def _gpu_ended_ms(log: StepLog) -> Floats:
    """Return when the GPU ended each step: one that was held back in the log was as long as others
    of its kind."""
    held = np.flatnonzero(_held(log))
    firm = np.flatnonzero(_firm(log)[1:]) + 1
    ended = log.ended_ms.copy()
    if len(held) and len(firm):
        usual = float(np.median(log.ended_ms[firm] - log.ended_ms[firm - 1]))
        ended[held] = np.minimum(ended[held], log.ended_ms[held - 1] + usual)
    return ended


def _held(log: StepLog) -> NDArray[np.bool_]:
    """Return which decode steps were held back by the launch of a large step.

    With asynchronous scheduling one thread launches the next step before it waits for this one: it
    then need not wait, and logs the moment at which the launch was done.
    """
    plain = (log.prompt_tokens == 0) & (log.decoding > 0)
    large = (log.prompt_tokens > 0) & (log.prompt_tokens + log.decoding > _CAPTURED)
    held = np.zeros(len(plain), dtype=np.bool_)
    held[1:-1] = plain[1:-1] & plain[:-2] & large[2:] & (log.waited_ms[1:-1] < _WAITED_MS)
    return held


def _launch_s(log: StepLog) -> tuple[float, ...]:
    """Return how long the launch of a large step takes: its deciles, from the 5th percentile."""
    held = np.flatnonzero(_held(log))
    lengths = np.sort(log.ended_ms[held] - log.ended_ms[held - 1])
    if not len(lengths):
        return ()
    # The log has whole milliseconds: spread those that look equal over theirs.
    _, first, alike = np.unique(lengths, return_index=True, return_counts=True)
    place = np.arange(len(lengths)) - np.repeat(first, alike)
    spread = lengths + (place + 0.5) / np.repeat(alike, alike) - 0.5
    return tuple(float(q) / 1e3 for q in np.quantile(spread, np.arange(0.05, 1.0, 0.1)))


def _stretch(
    log: StepLog,
    heat: Floats,
    inside: range,
    base: float,
    extra: Knots,
    per_kv: float,
    pair_s: float,
) -> tuple[Floats, float]:
    row, known = np.zeros(len(PROMPTS) + 2), 0.0
    for k in inside:
        tokens = float(log.prompt_tokens[k])
        known += interpolate(extra, float(log.decoding[k]))
        if not tokens:
            known += base + per_kv * float(log.kv_tokens[k])
            continue
        row[:-2] += _hats(tokens, PROMPTS)
        row[-2] += float(log.kv_tokens[k]) - tokens
        row[-1] += float(heat[k]) * tokens
        # The log says how many prompts a step had, not how long each was.
        known += pair_s * tokens**2 / 2 / max(1.0, float(log.prompts[k]))
    return row, known


def _frontend_token_s(ttft: Sequence[TtftPoint], per_kv: float, base: float) -> float:
    """Return what a prompt token costs outside the engine, from prompts that were cached whole."""
    hits = sorted((p for p in ttft if p.cached_tokens), key=lambda p: p.prompt_tokens)
    if len(hits) < 2:
        return 0.0
    first, last = hits[0], hits[-1]
    tokens = last.prompt_tokens - first.prompt_tokens
    slope = (last.ttft_s - first.ttft_s) / tokens if tokens else 0.0
    return max(0.0, slope - per_kv) if base else 0.0


def _pair_s(ttft: Sequence[TtftPoint], budget: int, token_s: float) -> float:
    """Return the seconds per pair of tokens that attend, from prompts of many full chunks; from
    the bend of the curve where none is so long."""
    cold = [p for p in ttft if not p.cached_tokens]
    long = [p for p in cold if p.prompt_tokens % budget == 0]
    if len(long) >= 3:
        chunks = np.array([p.prompt_tokens // budget for p in long], dtype=np.float64)
        before = chunks * (chunks - 1) / 2 * budget**2
        seconds = np.array([p.ttft_s - token_s * p.prompt_tokens for p in long])
        # One chunk's time, and what it costs to look back.
        solved = _solve(np.column_stack([chunks, before]), seconds, 1 / seconds)
        return max(0.0, float(solved[1]))
    n = np.array([p.prompt_tokens for p in cold], dtype=np.float64)
    seconds = np.array([p.ttft_s for p in cold])
    if len(cold) < 4:
        return 0.0
    solved = _solve(np.column_stack([np.ones_like(n), n, n**2 / 2]), seconds, 1 / seconds)
    return max(0.0, float(solved[2]))


def _forward_idle(
    ttft: Sequence[TtftPoint], budget: int, front_s: float, token_s: float, pair_s: float
) -> Knots:
    """Return the forward pass from TTFTs of prompts that fit one step."""
    cold = sorted(
        (p for p in ttft if not p.cached_tokens and p.prompt_tokens <= budget),
        key=lambda p: p.prompt_tokens,
    )
    return tuple(
        (
            float(p.prompt_tokens),
            p.ttft_s - front_s - token_s * p.prompt_tokens - pair_s * p.prompt_tokens**2 / 2,
        )
        for p in cold
    )


def _front_from_hits(ttft: Sequence[TtftPoint], base: float, token_s: float) -> float | None:
    """Return what a TTFT has beyond the smallest step: a prompt that is cached takes just that."""
    hits = [p.ttft_s - base - token_s * p.prompt_tokens for p in ttft if p.cached_tokens]
    if hits:
        return max(0.0, float(np.median(hits)))
    shortest = min((p for p in ttft if not p.cached_tokens), key=lambda p: p.prompt_tokens)
    return max(0.0, shortest.ttft_s - base)


def _front(ttft: Sequence[TtftPoint], forward: Knots, token_s: float, pair_s: float) -> float:
    """Return what idle TTFTs of short prompts have beyond the step; long ones heat the GPU."""
    short = [p for p in ttft if not p.cached_tokens and p.prompt_tokens <= 1024]
    beyond = [
        p.ttft_s
        - interpolate(forward, p.prompt_tokens)
        - token_s * p.prompt_tokens
        - pair_s * p.prompt_tokens**2 / 2
        for p in short
    ]
    return max(0.0, float(np.median(beyond)))


def _jitter_s(decode: Sequence[DecodePoint]) -> float:
    """Return how far a token is seen early or late: a gap has two such errors, and at small
    batches nothing else varies.  The 90th percentile of a normal is 1.2816 deviations out."""
    spreads = [p.p90_s - p.step_s for p in decode if p.sequences <= 16]
    return max(0.0, float(np.median(spreads))) / 1.2816 / 2**0.5 if spreads else 0.0


def _solve(rows: Floats, values: Floats, weights: Floats) -> Floats:
    solved, *_ = np.linalg.lstsq(rows * weights[:, None], values * weights, rcond=None)
    return np.asarray(solved, dtype=np.float64)
