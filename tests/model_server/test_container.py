"""The whole life of a server: start, readiness, relay, drain, end; and what `check` says before."""

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest

from servekit.launch.keeper import descendants
from tests.model_server.node import FOR_CPU, T4, model_server
from tests.support.container_program import MODEL, write_snapshot
from tests.support.gated_hub import hub
from tests.support.waiting import until

TOKEN = "hf_thisTokenOpensTheModelThatIsGated"  # noqa: S105  (the stand-in's)


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    write_snapshot(tmp_path / "hf")
    return tmp_path


async def test_server_is_ready_when_it_is_warm(folder: Path) -> None:
    """503 with Retry-After and the stage until then, for every path; 200 afterwards."""
    async with model_server(folder, FAKE_STEP_S="0.1") as running:
        await running.logged("Loading model from scratch")
        status, headers, body = await running.get("/health")
        assert (status, headers["Retry-After"]) == (503, "5")
        assert json.loads(body)["stage"] == "vLLM server startup"
        assert (await running.get("/v1/models"))[0] == 503

        await running.url()

        assert (await running.get("/health"))[0] == 200
        prompts = await running.json("/prompts")
        start = await running.json("/startup")

    assert prompts
    assert start["device"] == "1 x Tesla T4 (7.5, 15360 MiB)"
    assert [stage["name"] for stage in start["stages"]] == [
        "Container initialization",
        "System configuration",
        "Model download",
        "Environment setup",
        "vLLM server startup",
        "Pre-warming script execution",
        "Ready to serve",
    ]


async def test_answer_without_text_warms_as_well(folder: Path) -> None:
    """Tokens that decode to nothing, as a model may give for a prompt of arbitrary ids."""
    async with model_server(folder, FAKE_SAYS_NOTHING="1") as running:
        await running.url()

    assert any('"prewarmed"' in line for line in running.log)
    assert not any("prewarm failed" in line for line in running.log)


async def test_engine_is_started_for_the_gpu_that_is_there(folder: Path) -> None:
    """The seed's numbers, half precision on a T4, caches on the volume; no secret in a log."""
    environ = {"HF_TOKEN": "hf_s3cret", "ENGINE_ARGS": "--swap-space 4 --seed 7"}
    async with model_server(folder, SERVED_MODEL_NAME="small", **environ) as running:
        await running.url()
        line = " ".join(await running.json("/arguments"))
        environment = await running.json("/environment")
        warning = await running.logged("swap-space")

    assert f"--served-model-name small {MODEL} tiny-1b --dtype float32" in line
    assert "--max-model-len 2048 --max-num-seqs 64 --gpu-memory-utilization 0.8" in line
    assert line.endswith("--seed 7")
    assert environment["VLLM_CACHE_ROOT"] == f"{folder}/models/cache/vllm"
    assert "kv-offloading-size" in warning
    assert not any("hf_s3cret" in said for said in [*running.log, *environment.values()])


async def test_no_secret_can_be_read_of_the_process(folder: Path) -> None:
    """The engine is of the same user: it could read what the kernel shows of its parent."""
    secrets = {"HF_TOKEN": "hf_s3cret", "VLLM_API_KEY": "key-s3cret"}
    async with model_server(folder, ENGINE_ARGS="--api-key arg-s3cret", **secrets) as running:
        await running.url()
        below = descendants(running.process.pid)
        shown = [
            path.read_bytes()
            for pid in (running.process.pid, *below)
            for path in (Path(f"/proc/{pid}/environ"), Path(f"/proc/{pid}/cmdline"))
        ]
        status, _, _ = await running.get("/v1/models")

    assert len(below) >= 2
    assert not any(b"s3cret" in text for text in shown)
    assert any(b"MODEL_NAME" in text for text in shown)
    assert status == 401
    assert not any("s3cret" in line for line in running.log)


@pytest.mark.parametrize("hidden", [True, False])
async def test_cpu_takes_over_where_the_engine_can(folder: Path, hidden: bool) -> None:
    """No driver, or CUDA_VISIBLE_DEVICES="", as the seed tried it without a GPU."""
    gpus, environ = (T4, {"CUDA_VISIBLE_DEVICES": ""}) if hidden else (None, {})
    async with model_server(folder, gpus=gpus, engine=FOR_CPU, **environ) as running:
        await running.url()
        arguments = await running.json("/arguments")
        await running.logged("runs on the CPU")

    assert "--enforce-eager" in arguments
    assert "--gpu-memory-utilization" not in arguments


async def test_node_without_a_gpu_is_refused_before_any_download(tmp_path: Path) -> None:
    """One line for `kubectl logs`, with both ways out; the hub is not asked."""
    with hub(TOKEN) as gated:
        environ = {"HF_ENDPOINT": gated.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN}
        async with model_server(tmp_path, gpus=None, **environ) as running:
            said = await running.refused()

    assert said.startswith("error: no GPU on this node (nvidia-smi is not here")
    assert "limits nvidia.com/gpu: 1" in said
    assert gated.asked == []


async def test_sigterm_under_load_loses_nothing(folder: Path) -> None:
    """What runs is finished, what still comes is served, and /health says to send no more."""
    environ = {"FAKE_STEP_OF_STREAM_S": "0.05", "SHUTDOWN_LINGER_S": "8"}
    async with model_server(folder, **environ) as running:
        await running.url()
        began: list[str] = []
        streams = [running.stream(lambda: began.append("one")) for _ in range(4)]
        early = [asyncio.create_task(stream) for stream in streams]
        await until(lambda: len(began) == 4)
        running.terminate()
        await running.logged('"draining"')
        status, headers, _ = await running.get("/health")
        late = await running.stream()
        bodies = await asyncio.gather(*early)
        code = await running.ended()

    assert (status, headers["Retry-After"]) == (503, "5")
    assert all(body.endswith(b"data: [DONE]\n\n") for body in [late, *bodies])
    assert code == 0
    assert '"lost": 0' in await running.logged('"drained"')


async def test_engine_that_dies_takes_the_server_with_it(folder: Path) -> None:
    """Kubernetes starts a container again that has ended; the last line says why it did."""
    async with model_server(folder, FAKE_DIES_AT="3") as running:
        await running.url()
        with pytest.raises(aiohttp.ClientPayloadError):
            await running.stream()
        code = await running.ended()

    assert code == 1
    assert "RuntimeError: CUDA error" in running.log[-2]
    assert "exited with 134: RuntimeError: CUDA error" in running.log[-1]


async def test_engine_that_is_never_ready_is_given_up(folder: Path) -> None:
    """Before Kubernetes gives up, and saying so."""
    async with model_server(folder, FAKE_NEVER_READY="1", STARTUP_TIMEOUT_S="2") as running:
        code = await running.ended()

    assert code == 1
    assert "not ready after" in running.log[-1]


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"PORT": "tcp://10.0.0.7:8000"}, "PORT is 'tcp://10.0.0.7:8000'"),
        ({"DEVICE": "tpu"}, "DEVICE is 'tpu'; use auto, cuda, cpu"),
        ({"MAX_MODEL_LEN": "4096"}, "MAX_MODEL_LEN is 4096, and acme/tiny-1b has 2048"),
        ({"GPU_MEMORY_UTILIZATION": "80"}, "gpu_memory_utilization is 80"),
        ({"MAX_NUM_SEQS": "0"}, "max_num_seqs is 0"),
        ({"TENSOR_PARALLEL_SIZE": "2"}, "TENSOR_PARALLEL_SIZE is 2, and 1 GPU is visible"),
        ({"TENSOR_PARALLEL_SIZE": "0"}, "TENSOR_PARALLEL_SIZE is 0"),
        ({"MODELS_FOLDER": "models"}, "MODELS_FOLDER is 'models'; begin it with /"),
        ({"SHUTDOWN_LINGER_S": "60"}, "SHUTDOWN_LINGER_S is 60"),
    ],
)
async def test_bad_setting_ends_the_start_in_one_line(
    folder: Path, environ: dict[str, str], said: str
) -> None:
    """With the value, and what to do."""
    async with model_server(folder, **environ) as running:
        assert said in await running.refused()


async def test_check_says_what_a_start_would_meet(tmp_path: Path) -> None:
    """Engine, device, licence and size, without a byte of the model."""
    with hub(TOKEN) as gated:
        environ = {"HF_ENDPOINT": gated.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN}
        code, lines = await _check(tmp_path, **environ)
        closed, refused = await _check(tmp_path, **environ | {"HF_TOKEN": ""})

    assert code == 0
    assert lines["engine"] == "vLLM 0.33.0, torch 2.14.0+cu130"
    assert lines["device"] == "1 x Tesla T4 (7.5, 15360 MiB)"
    assert lines["model"].startswith("to be fetched, ")
    assert closed == 1
    assert "gated" in refused["FAILED model"]
    assert not any("/resolve/" in path for path in gated.asked)


async def test_check_finds_every_fault_and_not_only_the_first(tmp_path: Path) -> None:
    """No GPU, and no model: both are said."""
    code, lines = await _check(tmp_path, gpus=None)

    assert code == 1
    assert "no GPU on this node" in lines["FAILED device"]
    assert "HF_HUB_OFFLINE" in lines["FAILED model"]


async def _check(
    folder: Path, *, gpus: str | None = T4, **environ: str
) -> tuple[int, dict[str, str]]:
    """Its exit code, and what it said by name."""
    async with model_server(folder, "check", gpus=gpus, **environ) as running:
        code = await running.ended()
    rows = [(line[:8].strip(), line[8:22].strip(), line[22:]) for line in running.printed]
    return code, {name if state == "ok" else f"{state} {name}": said for state, name, said in rows}
