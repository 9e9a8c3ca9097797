"""The command `calibrate-engine`: a step-time profile of a live engine or of recordings."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
import uvloop
from rich.console import Console

from bench.cli.options import Seed
from bench.results.files import write_file
from bench.twin.engine_probe import measure
from bench.twin.recordings import RecordedLoad, read_decode, read_steps, read_ttft
from bench.twin.step_fit import fit_profile
from servekit.cli.options import old_name
from servekit.enginesim.step_profile import StepProfile
from servekit.errors.tree import SettingInvalid

# What the H200 of the recorded measurements reported.
RECORDED_KV_TOKENS = 921_696

# Part of an idle TTFT that a busy engine hides behind the step before: the value at which the
# lightest recorded load's TTFT p50 agrees; the two others are then predictions.
RECORDED_IDLE_START_S = 0.0034


def register(app: typer.Typer) -> None:
    """Add `calibrate-engine` to *app*."""
    app.command("calibrate-engine")(calibrate_engine)


def calibrate_engine(
    url: Annotated[
        str | None, typer.Option(help="URL of an idle live engine.", rich_help_panel="Engine")
    ] = None,
    recorded: Annotated[
        Path | None,
        typer.Option(
            help="Directory of recorded measurements, instead of --url.", rich_help_panel="Engine"
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option(help="Profile file to write.", rich_help_panel="Results")
    ] = Path("profile.json"),
    model: Annotated[
        str | None,
        typer.Option(
            help="Model to measure. Default: the first that is served.", rich_help_panel="Engine"
        ),
    ] = None,
    gpu: Annotated[
        str, typer.Option(help="GPU type, recorded in the profile.", rich_help_panel="Engine")
    ] = "unknown",
    tensor_parallel_size: Annotated[
        int, typer.Option(help="The engine's tensor_parallel_size.", rich_help_panel="Engine")
    ] = 1,
    utilization: Annotated[
        float,
        typer.Option(
            "--gpu-memory-utilization",
            old_name("--utilization"),
            help="The engine's gpu_memory_utilization.",
            rich_help_panel="Engine",
        ),
    ] = 0.92,
    budget: Annotated[
        int,
        typer.Option(
            "--max-num-batched-tokens",
            old_name("--budget"),
            help="The engine's max_num_batched_tokens.",
            rich_help_panel="Engine",
        ),
    ] = 8192,
    most: Annotated[
        int,
        typer.Option(
            "--max-batch",
            old_name("--most"),
            help="Max batch size to measure.",
            rich_help_panel="Load",
        ),
    ] = 256,
    kv_cache_tokens: Annotated[
        int | None,
        typer.Option(
            help="KV cache size (tokens), if /metrics does not report it.",
            rich_help_panel="Engine",
        ),
    ] = None,
    seed: Seed = 1,
) -> None:
    """Measure the step times of an engine and write them as a profile for simulations.

    Measures TTFT by prompt length, ITL by batch size and context, and the effect of a prefix hit.
    """
    if (url is None) == (recorded is None):
        raise SettingInvalid("give either --url of a live engine or --recorded DIRECTORY, not both")
    if recorded is not None:
        body = recorded_profile(recorded)
    else:
        evidence = uvloop.run(measure(url or "", model, most, seed, kv_cache_tokens))
        profile = fit_profile(evidence.model, evidence.decode, evidence.ttft, budget=budget)
        about = {
            "engine": evidence.version,
            "hardware": f"{tensor_parallel_size} x {gpu}",
            "date": datetime.now().astimezone().date().isoformat(),
            "how": f"runner calibrate-engine --url … --max-batch {most} "
            f"--max-num-batched-tokens {budget}",
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
