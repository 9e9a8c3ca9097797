"""Measure a live engine from outside: TTFT by prompt, ITL by batch and context.  Input and output.

Whatever else the machine does makes a step longer now and then: every point is the median of
several measurements, and one in which no step could be timed is taken again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

import numpy as np

from bench.twin.live_engine import LiveEngine, ProbeAnswer, open_engine
from bench.twin.step_fit import DecodePoint, TtftPoint
from servekit.errors.tree import EngineError, SettingInvalid

PROMPTS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
REPEATS = 3
ATTEMPTS = 8

# Prompts are random and share nothing: hits beyond this share come from an earlier run.
MOST_KNOWN = 0.01


class NotMeasured(EngineError):
    """No step could be timed, however often it was tried."""


@dataclass(frozen=True, slots=True)
class EngineMeasurements:
    """What was measured, before it is fitted."""

    decode: tuple[DecodePoint, ...]
    ttft: tuple[TtftPoint, ...]
    kv_cache_tokens: int
    version: str
    model: str


async def measure(
    url: str, model: str | None, most: int, seed: int, kv_cache_tokens: int | None
) -> EngineMeasurements:
    """Measure a live engine; *most* is the largest batch.

    Raises:
        EngineUnreachable, EngineRefused: it is not there, or it failed.
        NotMeasured: it answers, but its steps cannot be told apart, or it knows the prompts.
        SettingInvalid: the size of its KV cache is unknown.
    """
    engine = await open_engine(url, seed, model)
    try:
        tokens = kv_cache_tokens or await engine.kv_cache_tokens()
        if tokens is None:
            raise SettingInvalid(
                f"{url}/metrics does not report the KV cache size; set --kv-cache-tokens"
            )
        await engine.warm_up()
        known = await engine.prefix_hits()
        ttft = await _ttft_cold(engine)
        known = await engine.prefix_hits() - known
        if known > MOST_KNOWN * REPEATS * sum(point.prompt_tokens for point in ttft):
            raise NotMeasured(
                f"{url}: {known} tokens of new prompts were in the prefix cache from an earlier "
                "run; use another --seed"
            )
        ttft += await _ttft_hits(engine)
        decode = await _decode(engine, most, tokens)
        version = await engine.version()
    finally:
        await engine.aclose()
    return EngineMeasurements(tuple(decode), tuple(ttft), tokens, version, engine.model)


async def _ttft_cold(engine: LiveEngine) -> list[TtftPoint]:
    points = []
    for prompt in PROMPTS:
        if prompt + 2 > engine.max_model_len:
            break
        times = [(await engine.must_ask(prompt, 1)).ttft_s for _ in range(REPEATS)]
        points.append(TtftPoint(prompt, median(times)))
    return points


async def _ttft_hits(engine: LiveEngine) -> list[TtftPoint]:
    """Ask the same prompt again: all but its last block comes from the prefix cache."""
    points = []
    for share in (4, 1):
        prompt = min(PROMPTS[-1], engine.max_model_len - 8) // share
        tokens = engine.prompt(prompt)
        await engine.must_ask(tokens, 1)
        times = [(await engine.must_ask(tokens, 1)).ttft_s for _ in range(REPEATS)]
        points.append(TtftPoint(prompt, median(times), cached_tokens=prompt - 1))
    return points


async def _decode(engine: LiveEngine, most: int, kv_tokens: int) -> list[DecodePoint]:
    points = []
    for batch in (b for b in BATCHES if b <= most):
        contexts = [min(256, engine.max_model_len // 4)]
        if batch in (1, 8, 32):
            contexts.append(min(8192, engine.max_model_len // 2))
        fitting = (c for c in contexts if batch * (c + 128) <= kv_tokens)
        points += [await decode_at(engine, batch, context) for context in fitting]
    return points


class ProbeTarget(Protocol):
    """An engine that answers several prompts at once."""

    @property
    def url(self) -> str: ...

    @property
    def max_model_len(self) -> int: ...

    async def must_ask_together(
        self, prompts: Sequence[int | list[int]], output_tokens: int
    ) -> list[ProbeAnswer]: ...


async def decode_at(engine: ProbeTarget, batch: int, context: int) -> DecodePoint:
    """Return the step of *batch* sequences that decode together behind *context* tokens each.

    Raises:
        NotMeasured: no attempt saw two tokens apart.
    """
    output = max(16, min(128, engine.max_model_len - context - 1))
    seen: list[list[float]] = []
    for _ in range(ATTEMPTS):
        gaps = gaps_together(await engine.must_ask_together([context] * batch, output))
        seen += [gaps] if sum(gaps) > 0 else []
        if len(seen) == REPEATS:
            break
    if not seen:
        raise NotMeasured(
            f"{engine.url}: decoding of {batch} sequences at {context} tokens of context was not "
            f"measured: all tokens of a sequence arrived at once in {ATTEMPTS} attempts; retry on "
            "an idle machine"
        )
    return DecodePoint(
        sequences=batch,
        kv_tokens=batch * (context + output / 2),
        step_s=median(float(np.mean(gaps)) for gaps in seen),
        p90_s=median(float(np.quantile(gaps, 0.9)) for gaps in seen),
    )


def gaps_together(answers: list[ProbeAnswer]) -> list[float]:
    """Return the gaps between tokens while all of *answers* decoded; where they never did, what
    each saw on the whole."""
    all_started = max(a.sent_s + a.ttft_s for a in answers)
    first_ended = min(a.sent_s + a.last_s for a in answers)
    gaps: list[float] = []
    for answer in answers:
        at = answer.sent_s + answer.ttft_s
        for gap in answer.gaps_s:
            if at >= all_started and at + gap <= first_ended:
                gaps.append(gap)
            at += gap
    if sum(gaps) > 0:
        return gaps
    return [(a.last_s - a.ttft_s) / (a.output_tokens - 1) for a in answers if a.output_tokens > 1]
