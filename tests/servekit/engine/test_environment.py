"""The environment that an engine is given."""

import re
from pathlib import Path, PurePosixPath

import pytest

from servekit.engine.environment import (
    EngineFolders,
    compile_variables,
    engine_environment,
    holds_secret,
)

CAPTURE = Path(__file__).parents[2] / "golden/vllm/variables_v0.32.0.txt"
VLLM_VARIABLES = re.findall(r"^VLLM_\w+", CAPTURE.read_text(), re.MULTILINE)

FOLDERS = EngineFolders(cache=PurePosixPath("/cache"), home=PurePosixPath("/home/engine"))


def _environment(**environ: str) -> tuple[dict[str, str], list[str]]:
    warnings: list[str] = []
    return engine_environment(environ, FOLDERS, warnings.append), warnings


def test_everything_else_is_passed_on() -> None:
    """An engine depends on variables that we know nothing of."""
    environment, warnings = _environment(PATH="/bin", NCCL_DEBUG="INFO", OTEL_SDK_DISABLED="true")

    assert environment["NCCL_DEBUG"] == "INFO"
    assert environment["OTEL_SDK_DISABLED"] == "true"
    assert warnings == []


@pytest.mark.parametrize("name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "VLLM_API_KEY"])
def test_credentials_stay_with_us(name: str) -> None:
    """The engine needs none, and a key in its environment would cost a recompile."""
    environment, warnings = _environment(**{name: "s3cret"})

    assert "s3cret" not in environment.values()
    assert warnings == []


def test_retired_variable_is_dropped_with_what_replaced_it() -> None:
    """vLLM would warn, or refuse under --fail-on-environ-validation."""
    environment, warnings = _environment(VLLM_TORCH_COMPILE_LEVEL="2")

    assert "VLLM_TORCH_COMPILE_LEVEL" not in environment
    assert "--optimization-level" in warnings[0]


def test_kubernetes_service_named_vllm_does_no_harm() -> None:
    """vLLM would read VLLM_PORT=tcp://… as its port and die."""
    environment, warnings = _environment(VLLM_PORT="tcp://10.0.0.7:8000")

    assert "VLLM_PORT" not in environment
    assert "Kubernetes" in warnings[0]


def test_a_port_is_still_a_port() -> None:
    """Only a URI is refused."""
    environment, _ = _environment(VLLM_PORT="29500")

    assert environment["VLLM_PORT"] == "29500"


def test_all_caches_are_in_one_folder() -> None:
    """Triton's too, so that to keep the folder is to keep everything."""
    environment, _ = _environment(TRITON_CACHE_DIR="/root/.triton", HOME="/root")

    assert environment["TRITON_CACHE_DIR"] == "/cache/triton"
    assert environment["VLLM_CACHE_ROOT"] == "/cache"


def test_nothing_of_the_place_changes_the_compile_key() -> None:
    """Two hosts with other homes and tags give the engine the same key variables."""
    here, _ = _environment(HOME="/root", VLLM_IMAGE_TAG="a", XDG_CONFIG_HOME="/x")
    there, _ = _environment(HOME="/home/user", VLLM_USAGE_SOURCE="b")

    assert compile_variables(here) == compile_variables(there) == {"HOME": "/home/engine"}


def test_what_changes_the_key_is_reported() -> None:
    """CUDA_HOME may be needed, so it stays, and is part of the key."""
    environment, _ = _environment(CUDA_HOME="/usr/local/cuda")

    assert compile_variables(environment)["CUDA_HOME"] == "/usr/local/cuda"


def test_deployer_may_turn_our_defaults_off() -> None:
    """A default of ours gives way to what was set."""
    environment, _ = _environment(VLLM_ENABLE_STARTUP_PLAN="0")

    assert environment["VLLM_ENABLE_STARTUP_PLAN"] == "0"


SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
    "DB_PASSWORD": "monday",
    "OPENAI_API_KEY": "sk-1",
    "SLACK_WEBHOOK_URL": "https://hooks.slack.com/services/T0/B0/x",
    "HTTPS_PROXY": "http://user:pw@proxy:3128",
    "REDIS_URL": "redis://:hunter2@cache:6379",
    "HUGGINGFACE_HUB_TOKEN": "hf_x",
}


@pytest.mark.parametrize("name", SECRETS)
def test_whatever_holds_a_secret_stays_with_us(name: str) -> None:
    """Unless the deployment says that the engine needs it."""
    environment, warnings = _environment(**{name: SECRETS[name]})
    allowed = engine_environment({name: SECRETS[name]}, FOLDERS, warnings.append, allowed=[name])

    assert name not in environment
    assert not any(SECRETS[name] in warning for warning in warnings)
    assert (name in allowed) is (name != "HUGGINGFACE_HUB_TOKEN")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VLLM_MULTI_STREAM_GEMM_TOKEN_THRESHOLD", "1024"),
        ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("GPG_KEY", "A035C8C19219BA821ECEA86B64E628F8D684696D"),
        ("SSH_AUTH_SOCK", "/run/ssh/agent"),
        ("HTTPS_PROXY", "http://proxy:3128"),
        ("PWD", "/workspace"),
        ("OLDPWD", "/vllm-workspace/src"),
        ("HOSTNAME", "model-7f9c6d5b4-x2x9z"),
        ("NVIDIA_VISIBLE_DEVICES", "GPU-5a1d8c1e-0c4e-4f3c-9f8e-2b8f2f6f9f11"),
    ],
)
def test_what_only_sounds_like_a_secret_is_passed_on(name: str, value: str) -> None:
    """A threshold, a switch, a path, a fingerprint, a proxy without a password."""
    environment, warnings = _environment(**{name: value})

    assert environment[name] == value
    assert warnings == []


def test_no_variable_of_vllms_but_its_key_holds_a_secret() -> None:
    """They are dozens, and many are about tokens."""
    assert [name for name in VLLM_VARIABLES if holds_secret(name, "abcdefgh12345678")] == [
        "VLLM_API_KEY"
    ]
