"""`runner calibrate-engine`: a step profile of a live engine, or of recorded measurements."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer
import uvloop
from rich.console import Console

from bench.live_engine import LiveEngine, open_engine
from bench.recorded import RecordedLoad, read_decode, read_steps, read_ttft
from bench.results import write_file
from bench.step_fit import DecodePoint, TtftPoint, fit_profile
from servekit.enginesim.profile import StepProfile
from servekit.errors.tree import SettingInvalid

PROMPTS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
REPEATS = 3

# What the H200 of the recorded measurements reported.
RECORDED_KV_TOKENS = 921_696

# Part of an idle TTFT that a busy engine hides behind the step before: the value at which the
# lightest recorded load's TTFT p50 agrees; the two others are then predictions.
RECORDED_IDLE_START_S = 0.0034


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured, before it is fitted."""

    decode: tuple[DecodePoint, ...]
    ttft: tuple[TtftPoint, ...]
    kv_cache_tokens: int
    version: str
    model: str


def register(app: typer.Typer) -> None:
    """Add `calibrate-engine` to *app*."""
    app.command("calibrate-engine")(calibrate_engine)


def calibrate_engine(
    url: Annotated[str | None, typer.Option(help="A live engine that nobody else uses.")] = None,
    recorded: Annotated[
        Path | None, typer.Option(help="A folder of recorded measurements, instead of --url.")
    ] = None,
    output: Annotated[Path, typer.Option(help="The profile to write.")] = Path("profile.json"),
    model: Annotated[str | None, typer.Option(help="Which model; default: its first.")] = None,
    gpu: Annotated[str, typer.Option(help="What it runs on, for the record.")] = "unknown",
    tensor_parallel_size: Annotated[int, typer.Option(help="GPUs it spans.")] = 1,
    utilization: Annotated[float, typer.Option(help="Its gpu_memory_utilization.")] = 0.92,
    budget: Annotated[int, typer.Option(help="Its max_num_batched_tokens.")] = 8192,
    most: Annotated[int, typer.Option(help="Largest batch to measure.")] = 256,
    kv_cache_tokens: Annotated[
        int | None, typer.Option(help="Its KV cache, where /metrics does not say.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Prompts come from it.")] = 1,
) -> None:
    """Measure TTFT by prompt length, ITL by batch and context, and the effect of a prefix hit;
    write them as a profile that simulations use."""
    if (url is None) == (recorded is None):
        raise SettingInvalid("give either --url of a live engine or --recorded FOLDER")
    if recorded is not None:
        body = recorded_profile(recorded)
    else:
        evidence = uvloop.run(measure(url or "", model, most, seed, kv_cache_tokens))
        profile = fit_profile(evidence.model, evidence.decode, evidence.ttft, budget=budget)
        about = {
            "engine": evidence.version,
            "hardware": f"{tensor_parallel_size} x {gpu}",
            "date": datetime.now().astimezone().date().isoformat(),
            "how": f"runner calibrate-engine --url … --most {most} --budget {budget}",
        }
        body = profile_json(
            profile,
            evidence.model,
            gpu,
            tensor_parallel_size,
            utilization,
            evidence.kv_cache_tokens,
            about,
        )
    write_file(output, body)
    Console().print(f"profile: {output}")


def recorded_profile(folder: Path, without: RecordedLoad | None = None) -> bytes:
    """Return the profile of the H200 measurements in *folder*, but for the steps of one load."""
    name = "meta-llama/Llama-3.1-8B-Instruct"
    profile = fit_profile(
        name,
        read_decode(folder),
        read_ttft(folder),
        log=read_steps(folder, RECORDED_KV_TOKENS, without),
        idle_start_s=RECORDED_IDLE_START_S,
    )
    about = {
        "engine": "vLLM 0.26.0 (PyPI wheel), torch 2.11.0+cu130, -O2, FLASH_ATTN, async "
        "scheduling, Llama-3.1-8B shape in bf16, dummy weights",
        "flags": "max_num_batched_tokens 8192, max_num_seqs 1024, gpu_memory_utilization 0.92",
        "hardware": "one NVIDIA H200 (141 GB), 16 CPU cores",
        "date": "2026-11-21",
        "how": "runner calibrate-engine --recorded tests/golden/h200_vllm_0.26.0",
    }
    return profile_json(profile, name, "h200", 1, 0.92, RECORDED_KV_TOKENS, about)


def profile_json(
    profile: StepProfile,
    model: str,
    gpu: str,
    tensor_parallel_size: int,
    utilization: float,
    kv_cache_tokens: int,
    about: dict[str, str],
) -> bytes:
    """Return the profile file, times to the tenth of a microsecond where they are whole steps."""
    body = {
        "model": model,
        "gpu": gpu,
        "tensor_parallel_size": tensor_parallel_size,
        "gpu_memory_utilization": utilization,
        "kv_cache_tokens": kv_cache_tokens,
        "provenance": about,
        "step": {
            "forward_s": [[x, round(y, 7)] for x, y in profile.forward_s],
            "decode_s": [[x, round(y, 7)] for x, y in profile.decode_s],
            "kv_token_s": float(f"{profile.kv_token_s:.4g}"),
            "mixed_kv_token_s": float(f"{profile.mixed_kv_token_s:.4g}"),
            "attended_pair_s": float(f"{profile.attended_pair_s:.4g}"),
            "frontend_s": round(profile.frontend_s, 7),
            "frontend_token_s": float(f"{profile.frontend_token_s:.4g}"),
            "idle_start_s": round(profile.idle_start_s, 7),
            "launch_s": [round(y, 4) for y in profile.launch_s],
            "hot_token_s": float(f"{profile.hot_token_s:.4g}"),
            "hot_after_s": profile.hot_after_s,
            "jitter_s": round(profile.jitter_s, 7),
        },
    }
    return msgspec.json.format(msgspec.json.encode(body), indent=2) + b"\n"


async def measure(
    url: str, model: str | None, most: int, seed: int, kv_cache_tokens: int | None
) -> Evidence:
    """Measure a live engine from outside.

    Raises:
        EngineUnreachable, EngineRefused: it is not there, or it failed.
        SettingInvalid: nobody knows how large its KV cache is.
    """
    engine = await open_engine(url, seed, model)
    try:
        tokens = kv_cache_tokens or await engine.kv_cache_tokens()
        if tokens is None:
            raise SettingInvalid(f"{url}/metrics does not say; give --kv-cache-tokens")
        await engine.warm_up()
        ttft = [*await _ttft_cold(engine), *await _ttft_hits(engine)]
        decode = await _decode(engine, most, tokens)
        version = await engine.version()
    finally:
        await engine.aclose()
    return Evidence(tuple(decode), tuple(ttft), tokens, version, engine.model)


async def _ttft_cold(engine: LiveEngine) -> list[TtftPoint]:
    points = []
    for prompt in PROMPTS:
        if prompt + 2 > engine.max_model_len:
            break
        times = [(await engine.must_ask(prompt, 1)).ttft_s for _ in range(REPEATS)]
        points.append(TtftPoint(prompt, float(np.median(times))))
    return points


async def _ttft_hits(engine: LiveEngine) -> list[TtftPoint]:
    """Ask the same prompt again: all but its last block comes from the prefix cache."""
    points = []
    for share in (4, 1):
        prompt = min(PROMPTS[-1], engine.max_model_len - 8) // share
        tokens = engine.prompt(prompt)
        await engine.must_ask(tokens, 1)
        times = [(await engine.must_ask(tokens, 1)).ttft_s for _ in range(REPEATS)]
        points.append(TtftPoint(prompt, float(np.median(times)), cached_tokens=prompt - 1))
    return points


async def _decode(engine: LiveEngine, most: int, kv_tokens: int) -> list[DecodePoint]:
    points = []
    for batch in (b for b in BATCHES if b <= most):
        contexts = [min(256, engine.max_model_len // 4)]
        if batch in (1, 8, 32):
            contexts.append(min(8192, engine.max_model_len // 2))
        fitting = (c for c in contexts if batch * (c + 128) <= kv_tokens)
        points += [await _decode_at(engine, batch, context) for context in fitting]
    return points


async def _decode_at(engine: LiveEngine, batch: int, context: int) -> DecodePoint:
    """Let *batch* sequences decode together, and look at the gaps while all of them do."""
    output = max(16, min(128, engine.max_model_len - context - 1))
    answers = await engine.must_ask_together([context] * batch, output)
    all_started = max(a.sent_s + a.ttft_s for a in answers)
    first_ended = min(a.sent_s + a.last_s for a in answers)
    gaps: list[float] = []
    for answer in answers:
        at = answer.sent_s + answer.ttft_s
        for gap in answer.gaps_s:
            if at >= all_started and at + gap <= first_ended:
                gaps.append(gap)
            at += gap
    if sum(gaps) <= 0:
        # Too short to decode together: what each sequence saw is the best there is.
        gaps = [(a.last_s - a.ttft_s) / max(1, a.output_tokens - 1) for a in answers]
    return DecodePoint(
        sequences=batch,
        kv_tokens=batch * (context + output / 2),
        step_s=float(np.mean(gaps)),
        p90_s=float(np.quantile(gaps, 0.9)),
    )
