"""Embeddings that wake in seconds: vLLM on Modal, read from top to bottom.

    modal deploy modal_vllm_embedding_with_snapshot.py
    modal run modal_vllm_embedding_with_snapshot.py   # three sentences and the cold start

A 12 B model needs minutes to come up: weights are read, the engine starts, kernels are compiled.
Modal can take a picture of a container, its GPU memory included, and start the next one from it.
So everything slow happens once, before the picture:

    before   weights -> engine -> warm-up -> sleep (the GPU's memory is let go of) -> picture
    after    picture -> wake (the GPU's memory is taken again) -> serve

There are two ways in. `VLLMEmbeddingSnapshot` is called by Modal's Python API and runs vLLM in its
own process. `serve_http` speaks OpenAI's HTTP: vLLM is a child on loopback, and our front stands
before it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import modal
import modal.experimental
import structlog

from modal_embedding.engine.settings import carried, check_protected, read_embedding_settings
from servekit.errors.tree import EngineExited
from servekit.secrets.secret import Secret

log = structlog.get_logger()

# ## Settings
#
# This module is the entry point, read where we deploy and again in every container; what was set
# at deployment travels in the image's environment, so that both read the same.

settings = read_embedding_settings(os.environ, log.warning)

MINUTES = 60

# ## Image
#
# vLLM brings torch, aiohttp, msgspec and numpy.  The devel image has nvcc, which kernels that are
# compiled at their first use ask for.

HF_CACHE = "/root/.cache/huggingface"
VLLM_CACHE = "/root/.cache/vllm"

image = (
    modal.Image.from_registry(settings.cuda_image, add_python="3.12")
    .entrypoint([])
    .uv_pip_install(
        f"vllm=={settings.vllm_version}",
        "huggingface-hub>=1.31,<2",
        "zstandard==0.*",
        "structlog==26.*",
        "zstandard==0.*",
        "typer==0.29.*",
    )
    .env(
        {
            "HF_HUB_CACHE": HF_CACHE,
            # What HF_HUB_ENABLE_HF_TRANSFER was: transfers that may use all of the network.
            "HF_XET_HIGH_PERFORMANCE": "1",
            "VLLM_CACHE_ROOT": VLLM_CACHE,
            # Triton's kernels go where vLLM's caches go, or every second start compiles them anew.
            "TRITON_CACHE_DIR": f"{VLLM_CACHE}/triton",
            # A pool of compiler processes would be in the picture; one thread needs none.
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            **carried(os.environ),
        }
    )
    .add_local_python_source("modal_embedding", "servekit")
)

# ## Volumes
#
# Weights and compiled kernels outlive containers.  They are committed before the picture, because
# a container that starts from it mounts what was committed; and reloaded after it.

hf_cache = modal.Volume.from_name("hf-embedding-cache", create_if_missing=True)
jit_cache = modal.Volume.from_name("vllm-jit-cache", create_if_missing=True)
volumes: dict[str | PurePosixPath, modal.Volume | modal.CloudBucketMount] = {
    HF_CACHE: hf_cache,
    VLLM_CACHE: jit_cache,
}


def commit_volumes() -> None:
    """Make what was written visible to other containers."""
    if not modal.is_local():
        hf_cache.commit()
        jit_cache.commit()


def reload_volumes() -> None:
    """See what other containers wrote since the picture."""
    if modal.is_local():
        return
    for volume in (hf_cache, jit_cache):
        try:
            volume.reload()
        except RuntimeError as error:
            # Modal refuses while a file is open.  What we need was there at the picture.
            log.warning("a volume stays as it was at the snapshot", reason=str(error))


# ## The app

app = modal.App("vllm-embedding-snapshot")

secrets = [modal.Secret.from_name(name) for name in settings.modal_secrets]

# An option whose name Modal may still change; without it the picture leaves out the GPU's memory.
snapshot_options = {"enable_gpu_snapshot": settings.enable_gpu_snapshot}


def bring_model() -> Path:
    """Return the folder of the weights, on the volume."""
    import asyncio

    from modal_embedding.engine import weights
    from servekit.timing.clock import SystemClock

    folder = Path(HF_CACHE) / "servekit"
    bringing = weights.bring_model(
        settings, folder, os.environ, clock=SystemClock(), report=log.info
    )
    model = asyncio.run(bringing)
    commit_volumes()
    return model


# 24 GB of weights take minutes; once they are on the volume, this does nothing.
@app.function(image=image, volumes=volumes, secrets=secrets, timeout=20 * MINUTES)
def download_model_weights() -> str:
    """Bring the weights onto the volume, and return their folder."""
    return str(bring_model())


# ## By Python
#
#     VLLMEmbedding = modal.Cls.from_name("vllm-embedding-snapshot", "VLLMEmbeddingSnapshot")
#     embeddings = VLLMEmbedding().embed.remote(["Hello world"])


@app.cls(
    image=image,
    gpu=settings.gpu,
    volumes=volumes,
    secrets=secrets,
    scaledown_window=5 * MINUTES,
    timeout=10 * MINUTES,
    # The start that makes the picture may have to bring the weights first.
    startup_timeout=20 * MINUTES,
    max_containers=settings.max_containers,
    enable_memory_snapshot=True,
    experimental_options=snapshot_options,
)
class VLLMEmbeddingSnapshot:
    """The model, in this process."""

    @modal.enter(snap=True)
    def load_model(self) -> None:
        """Load, warm up and sleep: everything that the picture keeps."""
        from modal_embedding.server.snapshot import SnapshotEmbedder
        from servekit.timing.clock import SystemClock

        self.embedder = SnapshotEmbedder(settings, SystemClock())
        self.embedder.load(_bring_if_ours, _open_engine)
        commit_volumes()

    @modal.enter(snap=False)
    def wake(self) -> None:
        """Come back from the picture."""
        reload_volumes()
        self.embedder.wake()

    @modal.method()
    def embed(
        self,
        sentences: list[str],
        dimensions: int | None = None,
        instruction: str | None = None,
        query: bool = False,
    ) -> list[list[float]]:
        """Return one unit-length vector per sentence, in order."""
        from modal_embedding.messages.protocol import EmbedOptions

        with ending_with_its_engine():
            vectors = self.embedder.embed(sentences, EmbedOptions(dimensions, instruction, query))
        return vectors.tolist()  # type: ignore[no-any-return]

    @modal.method()
    def embed_with_metadata(
        self,
        sentences: list[str],
        dimensions: int | None = None,
        instruction: str | None = None,
        query: bool = False,
    ) -> list[dict[str, object]]:
        """Return `{"text", "embedding", "dimension"}` for each sentence, in order."""
        from modal_embedding.engine.embedder import described
        from modal_embedding.messages.protocol import EmbedOptions

        with ending_with_its_engine():
            vectors = self.embedder.embed(sentences, EmbedOptions(dimensions, instruction, query))
        return [dict(entry) for entry in described(sentences, vectors)]

    @modal.method()
    def cold_start(self) -> dict[str, object]:
        """Return where this container's start spent its time."""
        import msgspec

        return msgspec.to_builtins(self.embedder.cold_start())  # type: ignore[no-any-return]

    @modal.exit()
    def stop(self) -> None:
        """End the engine."""
        self.embedder.close()


@contextmanager
def ending_with_its_engine() -> Iterator[None]:
    """An engine that died serves nobody: its container takes no more, and another one comes.

    The caller sees EngineExited, and may ask again.
    """
    try:
        yield
    except EngineExited:
        if not modal.is_local():
            modal.experimental.stop_fetching_inputs()
        raise


def _bring_if_ours() -> Path:
    return Path() if _engine_url() else bring_model()


def _open_engine(folder: Path):  # type: ignore[no-untyped-def]
    from modal_embedding.engine.served_engine import ServedEngine
    from modal_embedding.engine.vllm_engine import load_vllm_engine

    url = _engine_url()
    if url:
        key = os.environ.get("EMBEDDING_API_KEY", "")
        return ServedEngine(url, settings.public_model_name, key)
    return load_vllm_engine(settings, str(folder))


def _engine_url() -> str:
    return os.environ.get("ENGINE_URL", "")


# ## By HTTP
#
# vLLM's routes for sleeping are open to whoever reaches them, and stand beside routes that change
# weights and run code.  So vLLM listens on loopback, and what the world reaches is our front.
#
# Who may call is decided twice.  Modal's edge asks for Modal-Key and Modal-Secret before it wakes a
# container, so that nobody else can cost us a GPU.  Clients that can only send a bearer token need
# PROXY_AUTH=0, and EMBEDDING_API_KEY in a secret: the front asks for it then.

check_protected(settings)

PORT = 8000
ENGINE_PORT = 8001


@app.server(
    name="serve_http",
    image=image,
    gpu=settings.gpu,
    volumes=volumes,
    secrets=secrets,
    port=PORT,
    unauthenticated=not settings.proxy_auth,
    routing_region=settings.routing_region,
    scaledown_window=5 * MINUTES,
    # 30 s, Modal's default, is over before vLLM has been imported.
    startup_timeout=20 * MINUTES,
    # Without it, answers that are under way are cut when a container is taken away.
    exit_grace_period=30,
    target_concurrency=32,
    max_containers=settings.max_containers,
    enable_memory_snapshot=True,
    experimental_options=snapshot_options,
)
class HttpEmbedding:
    """The model in a child process, behind our front."""

    @modal.enter(snap=True)
    def start_engine(self) -> None:
        """Start vLLM on loopback, warm it up and put it to sleep."""
        from modal_embedding.server.container import start_asleep

        self.service = start_asleep(settings, os.environ, bring_model, VLLM_CACHE, ENGINE_PORT)
        commit_volumes()

    @modal.enter(snap=False)
    def open_front(self) -> None:
        """Wake vLLM, and let requests in."""
        reload_volumes()
        # Secrets are those of now, not those of when the picture was taken.
        self.service.open(Secret(os.environ.get("EMBEDDING_API_KEY", "")), PORT)

    @modal.exit()
    def stop(self) -> None:
        """Let requests end, then the engine."""
        self.service.close()


# ## Try it


@app.local_entrypoint()
def main() -> None:
    """Embed three sentences with the class, and tell where the time of its start went."""
    import time

    import msgspec

    from modal_embedding.messages.coldstart import ColdStart, report
    from modal_embedding.messages.vectors import as_vectors, nearest

    sentences = ["A cat sleeps on the sofa.", "A kitten naps.", "Interest rates rose."]
    embedder = VLLMEmbeddingSnapshot()
    start_s = time.monotonic()
    vectors = as_vectors(embedder.embed.remote(sentences))
    first_call_s = time.monotonic() - start_s
    for match in nearest(vectors[0], vectors, len(sentences)):
        print(f"{match.score:6.3f}  {sentences[match.index]}")  # noqa: T201
    cold_start = msgspec.convert(embedder.cold_start.remote(), ColdStart)
    print(report(cold_start, first_call_s))  # noqa: T201
