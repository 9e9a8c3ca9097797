"""`modal deploy` and `.local()`, by the client library itself."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modal_proto import api_pb2  # pants: no-infer-dep

from modal_embedding import modal_vllm_embedding_with_snapshot
from tests.support.modal_control_plane import ControlPlane, control_plane
from tests.support.modal_engine import stand_in_engine, vector_of

MINUTE = 60


@asynccontextmanager
async def deployed(*what: str, **environ: str) -> AsyncIterator[tuple[int, str, ControlPlane]]:
    """Run `modal deploy`, and yield its exit code, what it printed, and what it asked for."""
    async with control_plane() as plane:
        code, said = await modal("deploy", *what, url=plane.url, **environ)
        yield code, said, plane


async def modal(*arguments: str, url: str, **environ: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "modal", *arguments),
        env={
            "HOME": os.environ.get("HOME", "/"),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "MODAL_SERVER_URL": url,
            "MODAL_TOKEN_ID": "ak-test",
            "MODAL_TOKEN_SECRET": "as-test",
            "MODAL_CONFIG_PATH": "/nonexistent",
            **environ,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


def functions(plane: ControlPlane) -> dict[str, Any]:
    created = plane.requests(api_pb2.FunctionCreateRequest)
    return {request.function.function_name: request.function for request in created}


def dockerfile(plane: ControlPlane) -> list[str]:
    images = plane.requests(api_pb2.ImageGetOrCreateRequest)
    return [line for request in images for line in request.image.dockerfile_commands]


async def test_the_app_is_deployed_as_the_seed_had_it() -> None:
    """Names, hardware, times, volumes and snapshots, as Modal is told them."""
    async with deployed("-m", "modal_embedding.app") as (code, said, plane):
        assert code == 0, said
        by_name = functions(plane)
        (published,) = plane.requests(api_pb2.AppPublishRequest)
        volumes = [v.deployment_name for v in plane.requests(api_pb2.VolumeGetOrCreateRequest)]

    assert published.name == "vllm-embedding-snapshot"
    assert set(volumes) == {"hf-embedding-cache", "vllm-jit-cache"}
    assert set(by_name) == {"download_model_weights", "VLLMEmbeddingSnapshot.*", "serve_http"}
    for name in ("VLLMEmbeddingSnapshot.*", "serve_http"):
        function = by_name[name]
        assert function.resources.gpu_config.gpu_type == "A100-40GB"
        assert function.resources.gpu_config.count == 1
        assert function.checkpointing_enabled
        assert dict(function.experimental_options) == {"enable_gpu_snapshot": "True"}
        assert function.task_idle_timeout_secs == 5 * MINUTE
        assert function.startup_timeout_secs == 20 * MINUTE
    for function in by_name.values():
        assert {mount.mount_path for mount in function.volume_mounts} == {
            "/root/.cache/huggingface",
            "/root/.cache/vllm",
        }
    download = by_name["download_model_weights"]
    assert download.timeout_secs == 20 * MINUTE
    assert download.resources.gpu_config.gpu_type == ""


async def test_the_class_has_its_methods_and_ten_minutes() -> None:
    """What Python callers see."""
    async with deployed("-m", "modal_embedding.app") as (_, _, plane):
        function = functions(plane)["VLLMEmbeddingSnapshot.*"]

    assert function.is_class
    assert function.timeout_secs == 10 * MINUTE
    assert set(function.method_definitions) == {"embed", "embed_with_metadata", "cold_start"}


async def test_the_endpoint_asks_for_a_token_and_drains() -> None:
    """Modal's edge lets nobody wake a GPU; answers under way are not cut."""
    async with deployed("-m", "modal_embedding.app") as (_, _, plane):
        function = functions(plane)["serve_http"]

    assert function.is_server
    assert not function.http_config.unauthenticated
    assert function.http_config.port == 8000
    assert function.http_config.startup_timeout == 20 * MINUTE
    assert function.http_config.exit_grace_period == 30
    assert function.autoscaler_settings.target_concurrency_float == 32
    assert function.autoscaler_settings.max_containers == 2


async def test_the_image_has_vllm_and_none_of_our_secrets() -> None:
    """Pinned, with the hub's acceleration by its current name; settings travel, keys do not."""
    environ = {"MODEL_NAME": "org/other", "EMBEDDING_API_KEY": "key-of-ours"}
    async with deployed("-m", "modal_embedding.app", **environ) as (code, said, plane):
        assert code == 0, said
        lines = dockerfile(plane)

    assert lines[0] == "FROM nvidia/cuda:13.0.0-devel-ubuntu22.04"
    assert any("uv pip install" in line and "vllm==0.33.0" in line for line in lines)
    assert "ENTRYPOINT []" in lines
    assert "ENV HF_XET_HIGH_PERFORMANCE=1" in lines
    assert not any("HF_TRANSFER" in line for line in lines)
    assert "ENV MODEL_NAME=org/other" in lines
    assert not any("key-of-ours" in line for line in lines)


async def test_both_libraries_go_into_the_container() -> None:
    """What app.py imports there is what was there when it was deployed."""
    async with deployed("-m", "modal_embedding.app") as (_, _, plane):
        mounts = plane.requests(api_pb2.MountGetOrCreateRequest)
        files = {file.filename for request in mounts for file in request.files}

    assert "/root/modal_embedding/app.py" in files
    assert "/root/servekit/launch/child.py" in files


async def test_settings_decide_what_is_deployed() -> None:
    """GPU, secrets, and a snapshot without the GPU's memory."""
    environ = {
        "GPU": "H100",
        "PROXY_AUTH": "0",
        "MODAL_SECRETS": "embedding-key",
        "ENABLE_GPU_SNAPSHOT": "false",
        "MAX_CONTAINERS": "7",
    }
    async with deployed("-m", "modal_embedding.app", **environ) as (code, said, plane):
        assert code == 0, said
        function = functions(plane)["serve_http"]
        secrets = [s.deployment_name for s in plane.requests(api_pb2.SecretGetOrCreateRequest)]

    assert function.resources.gpu_config.gpu_type == "H100"
    assert function.http_config.unauthenticated
    assert function.autoscaler_settings.max_containers == 7
    assert dict(function.experimental_options) == {"enable_gpu_snapshot": "False"}
    assert "embedding-key" in secrets


async def test_an_endpoint_open_to_all_is_not_deployed() -> None:
    """No call is made that would create it."""
    async with deployed("-m", "modal_embedding.app", PROXY_AUTH="0") as (code, said, plane):
        assert code != 0
        assert "MODAL_SECRETS" in said
        assert functions(plane) == {}


async def test_the_former_file_name_deploys_the_same() -> None:
    """`modal deploy modal_vllm_embedding_with_snapshot.py`, as ever."""
    path = modal_vllm_embedding_with_snapshot.__file__
    assert Path(path).name == "modal_vllm_embedding_with_snapshot.py"
    async with deployed(path) as (code, said, plane):
        assert code == 0, said
        assert len(functions(plane)) == 3


async def test_without_a_token_modal_is_explained() -> None:
    """In one line, with what to do."""
    async with control_plane() as plane:
        environ = {"MODAL_TOKEN_ID": "", "MODAL_TOKEN_SECRET": ""}
        script = (
            "import asyncio; from modal_embedding.messages.protocol import EmbedOptions;"
            "from modal_embedding.client.backends import ModalService;"
            "asyncio.run(ModalService('a', 'b').embed(['x'], EmbedOptions()))"
        )
        code, said = await python(script, url=plane.url, **environ)

    assert code == 1
    last = said.strip().splitlines()[-1]
    assert last.startswith("servekit.errors.tree.SettingInvalid: Modal does not know us")
    assert "modal token new" in last


async def python(script: str, *, url: str, **environ: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-c", script),
        env={
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "MODAL_SERVER_URL": url,
            "MODAL_CONFIG_PATH": "/nonexistent",
            **environ,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


LOCAL = """
import json, warnings
warnings.simplefilter("ignore")
from modal_embedding.app import VLLMEmbeddingSnapshot
embedder = VLLMEmbeddingSnapshot()
out = {
    "embed": embedder.embed.local(["a", "b"]),
    "short": embedder.embed.local(["a"], dimensions=4),
    "described": embedder.embed_with_metadata.local(["a"]),
    "start": embedder.cold_start.local(),
}
for bad in (["a", ""], "text", ["a", 3], []):
    try:
        embedder.embed.local(bad)
    except Exception as error:
        out.setdefault("refused", []).append(f"{type(error).__name__}: {error}")
print("\\n" + json.dumps(out))
"""


async def test_the_class_runs_here_with_another_engine() -> None:
    """Load, warm-up, sleep, wake, embed: the methods that Modal calls, in its order."""
    async with stand_in_engine() as engine:
        environ = {
            "ENGINE_URL": engine.url,
            "MODEL_NAME": "tiny",
            "MATRYOSHKA_DIMENSIONS": "8,4",
            "MAX_MODEL_LEN": "100",
        }
        code, said = await python(LOCAL, url="http://127.0.0.1:1", **environ)

    assert code == 0, said
    out = json.loads(said.strip().splitlines()[-1])
    assert np.allclose(out["embed"], [vector_of("a"), vector_of("b")], atol=1e-6)
    assert len(out["short"][0]) == 4
    assert np.linalg.norm(out["short"][0]) == pytest.approx(1.0, abs=1e-5)
    assert out["described"][0]["text"] == "a"
    assert out["described"][0]["dimension"] == 16
    assert [stage["name"] for stage in out["start"]["made"]] == [
        "weights",
        "engine",
        "warm-up",
        "sleep",
    ]
    assert [stage["name"] for stage in out["start"]["woken"]] == ["wake", "warm-up"]
    assert out["refused"] == [
        "RequestInvalid: text 1 is empty; there is nothing to embed, leave it out",
        "RequestInvalid: the texts are of type str; pass a list of strings",
        "RequestInvalid: text 1 is of type int; every text is a string",
        "RequestInvalid: there are no texts; send at least one",
    ]
