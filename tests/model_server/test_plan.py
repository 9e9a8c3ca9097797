"""The engine's command and environment."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import msgspec
import pytest

from model_server.device import Device
from model_server.gpus import NvidiaGpu
from model_server.plan import plan_engine
from model_server.settings import ModelServerSettings, read_model_server_settings
from servekit.container.engine_command import EngineCommand
from servekit.container.local_model import LocalModel, ModelFacts
from servekit.engine.dtype import GpuArch

LLAMA = LocalModel(
    "meta-llama/Llama-3.2-3B-Instruct", Path("/models/x"), "", ModelFacts("llama", 131072)
)


def _gpu(name: str, arch: GpuArch) -> Device:
    return Device((NvidiaGpu("0", "GPU-a", name, 15360, arch),))


T4 = _gpu("Tesla T4", GpuArch(7, 5))
A10G = _gpu("NVIDIA A10G", GpuArch(8, 6))


def _plan(
    environ: Mapping[str, str],
    device: Device,
    model: LocalModel = LLAMA,
    warnings: list[str] | None = None,
) -> EngineCommand:
    said = [] if warnings is None else warnings
    settings = read_model_server_settings(environ, said.append)
    return plan_engine(
        settings,
        model,
        device,
        port=8001,
        cache=PurePosixPath("/models/cache/vllm"),
        environ=environ,
        warn=said.append,
    )


def test_seeds_numbers_are_said_as_today() -> None:
    """On its T4: half precision, 0.8 of the memory, 4096 tokens, 64 sequences, the short name."""
    line = " ".join(_plan({}, T4).argv)

    assert line.startswith("vllm serve /models/x --host 127.0.0.1 --port 8001 ")
    assert (
        "--served-model-name llama-3.2-3b meta-llama/Llama-3.2-3B-Instruct Llama-3.2-3B-Instruct "
        "--dtype float16 --max-model-len 4096 --max-num-seqs 64 --gpu-memory-utilization 0.8"
    ) in line
    assert "swap" not in line
    assert "--enforce-eager" not in line


@pytest.mark.parametrize(
    ("family", "device", "dtype"),
    [
        ("llama", A10G, "bfloat16"),
        ("llama", T4, "float16"),
        ("gemma3", T4, "float32"),
        ("llama", Device(), "auto"),
    ],
)
def test_dtype_is_by_family_and_gpu(family: str, device: Device, dtype: str) -> None:
    """A T4 has no bfloat16, and Gemma no float16."""
    model = LocalModel("m", Path("/x"), "", ModelFacts(family, 4096))

    assert _plan({}, device, model).arguments.dtype == dtype
    assert _plan({"DTYPE": "float32"}, device, model).arguments.dtype == "float32"


def test_cpu_is_given_what_a_cpu_takes() -> None:
    """No share of a GPU's memory, nothing compiled, and a KV cache that leaves room for weights."""
    plan = _plan({}, Device())

    assert "--gpu-memory-utilization" not in plan.argv
    assert "--enforce-eager" in plan.argv
    assert plan.environ["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert _plan({"VLLM_CPU_KVCACHE_SPACE": "8"}, Device()).environ["VLLM_CPU_KVCACHE_SPACE"] == "8"
    assert "VLLM_CPU_KVCACHE_SPACE" not in _plan({}, T4).environ


@pytest.mark.parametrize(("positions", "length"), [(2048, 2048), (131072, 4096), (None, 4096)])
def test_context_is_the_seeds_where_the_model_has_it(positions: int | None, length: int) -> None:
    """A shorter model is served as it is; what is set by hand is not touched."""
    model = LocalModel("m", Path("/x"), "", ModelFacts("llama", positions))

    assert _plan({}, T4, model).arguments.max_model_len == length
    assert _plan({"MAX_MODEL_LEN": "512"}, T4, model).arguments.max_model_len == 512


def test_seeds_own_arguments_are_translated() -> None:
    """--swap-space is gone, and would end the engine."""
    warnings: list[str] = []

    plan = _plan({"ENGINE_ARGS": "--block-size 16 --swap-space 4"}, T4, warnings=warnings)

    assert plan.argv[-2:] == ("--block-size", "16")
    assert len(warnings) == 1
    assert "--swap-space" in warnings[0]


def test_secrets_and_settings_of_ours_stay_here() -> None:
    """The engine serves from local files, on loopback; Kubernetes' own variables are not for it."""
    warnings: list[str] = []
    environ = {
        "HF_TOKEN": "hf_x",
        "VLLM_API_KEY": "k-1",
        "MODEL_NAME": "a/b",
        "CUDA_VISIBLE_DEVICES": "0",
        "VLLM_PORT": "tcp://10.0.0.7:8000",
    }

    plan = _plan(environ, T4, warnings=warnings)

    assert not {"HF_TOKEN", "VLLM_API_KEY", "MODEL_NAME", "VLLM_PORT"} & plan.environ.keys()
    assert plan.environ["CUDA_VISIBLE_DEVICES"] == "0"
    assert plan.environ["HF_HUB_OFFLINE"] == "1"
    assert plan.environ["VLLM_CACHE_ROOT"] == "/models/cache/vllm"
    assert "k-1" not in plan.arguments.shown()
    assert any("enableServiceLinks" in warning for warning in warnings)


def test_names_can_be_chosen() -> None:
    """The first is the one that metrics carry; the model's own stay."""
    plan = _plan({"MODEL_NAME": "acme/tiny-1b", "SERVED_MODEL_NAME": "small, tiny-1b"}, T4)

    assert plan.arguments.served_model_names == ("small", "tiny-1b", "acme/tiny-1b")


def test_engine_sees_no_variable_that_is_only_ours() -> None:
    """Every setting is ours, or is named as one that vLLM and its libraries read too."""
    names = {field.encode_name for field in msgspec.structs.fields(ModelServerSettings)}
    environ = dict.fromkeys(names | ModelServerSettings.retired.keys(), "1")
    environ |= {"MODELS_FOLDER": "/models", "DEVICE": "auto", "SHUTDOWN_LINGER_S": "0"}

    plan = _plan(environ, T4)

    assert names & plan.environ.keys() <= ModelServerSettings.shared
    assert ModelServerSettings.shared <= names | {"TORCH_CUDA_ARCH_LIST"}
