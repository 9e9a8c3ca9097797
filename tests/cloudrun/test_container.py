"""The whole life of a container: start, readiness, relay, drain, end."""

import asyncio
import json
import time
from pathlib import Path

import aiohttp
import pytest

from servekit.container.front import STOPPING
from tests.cloudrun.container import container
from tests.support.container_program import STREAM, write_snapshot


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    write_snapshot(tmp_path / "hf")
    return tmp_path


async def test_start_is_said_while_it_lasts_and_summed_up(folder: Path) -> None:
    """503 with the stage until warm; then 200, the table, the file and the metrics."""
    async with container(folder, FAKE_STEP_S="0.15") as running:
        status, headers, body = await running.get("/health")
        assert (status, headers["Retry-After"]) == (503, "5")
        assert json.loads(body)["stage"] in (
            "Container initialization",
            "System configuration",
            "Environment setup",
            "vLLM server startup",
        )
        await running.logged("Loading model from scratch")
        status, _, body = await running.get("/v1/models")
        assert status == 503
        assert json.loads(body)["phase"] == "weights"

        await running.url()

        assert (await running.get("/health"))[0] == 200
        await running.logged("COLD START TIMING SUMMARY")
        kept = json.loads((folder / "startup.json").read_text())
        assert [stage["name"] for stage in kept["stages"]] == [
            "Container initialization",
            "System configuration",
            "Environment setup",
            "vLLM server startup",
            "Pre-warming script execution",
            "Ready to serve",
        ]
        assert [phase["name"] for phase in kept["phases"]][:2] == ["imports", "model inspection"]
        assert kept["total_s"] >= 7 * 0.15
        metrics = (await running.get("/startup/metrics"))[2].decode()
        assert "servekit_ready 1\n" in metrics
        assert 'servekit_startup_engine_phase_seconds{phase="weights"}' in metrics
        assert await running.json("/startup") == kept
        await running.logged(r"\[TIMING\]   vLLM: weights")


async def test_engine_is_started_as_the_settings_say(folder: Path) -> None:
    """Model folder, both names, dtype by family and GPU, the seed's defaults; no secret leaks."""
    async with container(
        folder,
        TORCH_CUDA_ARCH_LIST="8.9",
        VLLM_TORCH_COMPILE_LEVEL="2",
        MAX_MODEL_LEN="1024",
        HF_TOKEN="hf_s3cret",  # noqa: S106
        ENGINE_ARGS="--seed 7",
    ) as running:
        await running.url()
        arguments = await running.json("/arguments")
        environment = await running.json("/environment")
        warning = await running.logged("VLLM_TORCH_COMPILE_LEVEL is retired")

    line = " ".join(arguments)
    assert line.startswith(f"serve {folder}/hf/hub/models--acme--tiny-1b/snapshots/")
    assert "--served-model-name acme/tiny-1b tiny-1b" in line
    assert "--dtype bfloat16 --max-model-len 1024 --max-num-seqs 8" in line
    assert "--gpu-memory-utilization 0.95 --optimization-level 2" in line
    assert line.endswith("--seed 7")
    assert "hf_s3cret" not in environment.values()
    assert "VLLM_TORCH_COMPILE_LEVEL" not in environment
    assert environment["TORCH_DISTRIBUTED_DEBUG"] == "OFF"
    assert environment["OTEL_SDK_DISABLED"] == "true"
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert "OPTIMIZATION_LEVEL" in warning
    assert not any("hf_s3cret" in line for line in running.log)


async def test_prewarm_sends_exact_lengths_that_share_no_prefix(folder: Path) -> None:
    """128 to 2048 tokens, clipped to what fits, then batches; none finds another in the cache."""
    async with container(folder, MAX_MODEL_LEN="1000", MAX_NUM_SEQS="4") as running:
        await running.url()
        prompts = await running.json("/prompts")

    assert [len(prompt) for prompt in prompts] == [128, 256, 512, 990, *[128] * 2, *[128] * 4]
    assert len({prompt[0] for prompt in prompts}) == len(prompts)
    assert all(0 <= token < 1024 for prompt in prompts for token in prompt)


async def test_prewarm_can_be_skipped(folder: Path) -> None:
    """SKIP_PREWARM=yes, as the seed wrote it."""
    async with container(folder, SKIP_PREWARM="yes") as running:
        await running.url()
        assert await running.json("/prompts") == []


async def test_failing_prewarm_is_reported_and_not_fatal(folder: Path) -> None:
    """A container that is not warm is slow, not broken."""
    async with container(folder, FAKE_REFUSES="1") as running:
        await running.url()
        assert "http 400" in await running.logged("prewarm failed")


async def test_stream_is_passed_on_as_it_comes(folder: Path) -> None:
    """The first token is here long before the last one is made."""
    async with container(folder, FAKE_STEP_OF_STREAM_S="0.05") as running:
        url = await running.url()
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/v1/completions", json=STREAM) as answer,
        ):
            arrived = [
                time.monotonic() async for line in answer.content if line.startswith(b"data")
            ]

    assert len(arrived) == 31
    assert arrived[-1] - arrived[0] > 20 * 0.05


async def test_sigterm_under_load_loses_nothing(folder: Path) -> None:
    """Streams that run are finished, and the exit code is 0."""
    async with container(folder, FAKE_STEP_OF_STREAM_S="0.1") as running:
        url = await running.url()
        async with aiohttp.ClientSession() as session:
            answers = [await session.post(f"{url}/v1/completions", json=STREAM) for _ in range(8)]
            running.terminate()
            bodies = [await answer.read() for answer in answers]
        code = await running.ended()
        drained = await running.logged('"drained"')

    assert all(body.endswith(b"data: [DONE]\n\n") for body in bodies)
    assert code == 0
    assert json.loads(drained) | {"in_flight": 8, "lost": 0} == json.loads(drained)


async def test_drain_ends_within_the_grace(folder: Path) -> None:
    """A stream that would outlast it is ended in words, counted, and does not hold us."""
    async with container(folder, FAKE_STEP_OF_STREAM_S="1", SHUTDOWN_GRACE_S="3") as running:
        await running.url()
        reader, writer = await asyncio.open_connection("127.0.0.1", await running.port())
        body = json.dumps(STREAM).encode()
        head = b"POST /v1/completions HTTP/1.1\r\nHost: c\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        begin = await reader.readuntil(b"data: ")
        started = time.monotonic()
        running.terminate()
        code = await running.ended()
        stream = (begin + await reader.read()).decode()
        writer.close()

    assert code == 0
    # An event as the engine's own are, and no end: what was cut does not look whole.
    assert not stream.endswith("0\r\n\r\n")
    *_, last = [line for line in stream.splitlines() if line.startswith("data: ")]
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == STOPPING
    # The stream alone would have taken 30 s.
    assert time.monotonic() - started < 15
    assert await running.logged('"lost": 1')


async def test_sigterm_during_the_start_ends_it(folder: Path) -> None:
    """Nobody waits for an engine that nobody wants."""
    async with container(folder, FAKE_NEVER_READY="1") as running:
        await running.logged("Starting vLLM server")
        running.terminate()

        assert await running.ended() == 0


async def test_engine_that_cannot_start_ends_the_container(folder: Path) -> None:
    """At once, with its last words and exit code 1."""
    async with container(folder, FAKE_FAILS="1") as running:
        code = await running.ended()

    assert code == 1
    assert running.log[-1] == (
        "error: the engine exited with 1: ValueError: the checkpoint cannot be read"
    )


async def test_engine_that_is_never_ready_is_given_up(folder: Path) -> None:
    """Before the platform gives up, and saying so."""
    async with container(folder, FAKE_NEVER_READY="1", STARTUP_TIMEOUT_S="2") as running:
        code = await running.ended()

    assert code == 1
    assert "not ready after" in running.log[-1]


async def test_engine_that_dies_takes_the_container_with_it(folder: Path) -> None:
    """The client sees a broken stream, the platform an exit code; the log says why."""
    async with container(folder, FAKE_DIES_AT="3") as running:
        await running.url()
        with pytest.raises(aiohttp.ClientPayloadError):
            await running.stream()
        code = await running.ended()

    assert code == 1
    assert "exited with 134: RuntimeError: CUDA error" in running.log[-1]


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"PORT": "70000"}, "PORT is 70000"),
        ({"MAX_MODEL_LEN": "4096"}, "MAX_MODEL_LEN is 4096, and acme/tiny-1b has 2048"),
        ({"VLLM_TORCH_COMPILE_LEVEL": "9"}, "VLLM_TORCH_COMPILE_LEVEL is 9; use 0, 1, 2 or 3"),
        ({"OPTIMIZATION_LEVEL": "high"}, "OPTIMIZATION_LEVEL is 'high'"),
        ({"MODEL_NAME": "acme/unknown"}, "acme/unknown is not in"),
        ({"MODEL_NAME": "/nowhere"}, "'/nowhere' does not exist"),
        ({"ENGINE_COMMAND": "no-such-engine"}, "'no-such-engine' cannot be started"),
        ({"TORCH_CUDA_ARCH_LIST": "Ampere"}, "'Ampere'"),
        ({"GPU_MEMORY_UTILIZATION": "95"}, "gpu_memory_utilization is 95"),
    ],
)
async def test_bad_setting_ends_the_start_in_one_line(
    folder: Path, environ: dict[str, str], said: str
) -> None:
    """With the value, and what to do."""
    async with container(folder, **environ) as running:
        assert said in await running.refused()


async def test_engine_with_a_key_that_we_do_not_know_is_not_ready(folder: Path) -> None:
    """Nothing was warmed up, and no client could be served: vLLM has a key from elsewhere."""
    async with container(folder, FAKE_ASKS_FOR_A_KEY="1") as running:
        assert "set it as VLLM_API_KEY" in await running.refused()


async def test_cut_model_is_not_served(folder: Path) -> None:
    """A snapshot with half a weight file is refused by name."""
    weights = next((folder / "hf").rglob("model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-4])

    async with container(folder) as running:
        assert "model.safetensors" in await running.refused()


async def test_compile_cache_is_captured_once_and_put_back(folder: Path) -> None:
    """The next container of the same kind starts with it; one of another kind is not given it."""
    python = folder / "python"
    python.write_text("#!/bin/sh\necho 0.32.0 2.13.0\n")
    python.chmod(0o755)
    common = {
        "TORCH_CUDA_ARCH_LIST": "8.9",
        "OPTIMIZATION_LEVEL": "2",
        "ENGINE_PYTHON": str(python),
    }
    kept = str(folder / "kept")
    async with container(folder, COMPILE_CACHE_CAPTURE=kept, **common) as running:
        await running.url()
        await running.logged("compile cache captured")
    (folder / "cache/graph.bin").unlink()

    async with container(folder, **common) as same:
        await same.url()
        assert await same.logged("compile cache restored")
    async with container(folder, **common | {"OPTIMIZATION_LEVEL": "1"}) as other:
        await other.url()
        assert await other.logged("no compile cache for this engine")
