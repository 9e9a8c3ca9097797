"""What a start would meet, looked at without starting or downloading anything."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from model_server.lifecycle import engine_cache, find_device
from model_server.settings import ModelServerSettings
from model_server.weights import (
    Hub,
    find_here,
    read_source,
    require_writable,
    room_missing,
    size_text,
)
from servekit.container.engine_versions import find_versions
from servekit.errors.tree import ServeError, WeightsMissing, WeightsUnreachable
from servekit.weights.source import HubRepo

# PyTorch's workers pass tensors through it; Docker's own 64 MiB are too few for more than one GPU.
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
_SHARED_MEMORY_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PreflightCheck:
    """What one look found."""

    name: str
    ok: bool
    said: str


async def check(
    settings: ModelServerSettings, environ: Mapping[str, str], hub: Hub
) -> AsyncIterator[PreflightCheck]:
    """Yield a finding for each thing that a start needs, in the order in which it needs them."""
    warnings: list[str] = []
    looks: dict[str, Callable[[], Awaitable[str]]] = {
        "engine": lambda: _engine(settings, environ),
        "device": lambda: _device(settings, environ, warnings),
        "model": lambda: asyncio.to_thread(_model, settings, hub),
        "caches": lambda: asyncio.to_thread(_caches, settings, warnings),
        "shared memory": lambda: asyncio.to_thread(_shared_memory),
    }
    for name, look in looks.items():
        warnings.clear()
        try:
            said = await look()
        except ServeError as error:
            yield PreflightCheck(name, False, str(error))
            continue
        yield PreflightCheck(name, True, "; ".join([said, *warnings]))


async def _engine(settings: ModelServerSettings, environ: Mapping[str, str]) -> str:
    versions = await find_versions(settings.engine_python, environ)
    if versions is None:
        return f"{settings.engine_python} does not say which vLLM it has"
    return f"vLLM {versions.vllm}, torch {versions.torch}"


async def _device(
    settings: ModelServerSettings, environ: Mapping[str, str], warnings: list[str]
) -> str:
    return str(await find_device(settings, environ, warnings.append))


def _model(settings: ModelServerSettings, hub: Hub) -> str:
    source = read_source(settings)
    folder = find_here(settings, source)
    if folder is not None:
        return f"whole in {folder}"
    if settings.hf_hub_offline:
        raise WeightsMissing(f"{settings.public_model_name} is not here, and HF_HUB_OFFLINE is set")
    require_writable(settings.models_folder)
    return _on_the_hub(settings, source, hub) if isinstance(source, HubRepo) else "to be fetched"


def _on_the_hub(settings: ModelServerSettings, repo: HubRepo, hub: Hub) -> str:
    size = hub.size(repo)
    hub.require_access(repo)
    # A part that came already is as good as room; which part it is, only the download knows.
    missing = room_missing(size, settings.models_folder, settings.models_folder / ".partial")
    if missing:
        raise WeightsUnreachable(
            f"{repo.repo_id} needs {size_text(missing)} more than {settings.models_folder} has "
            "free; enlarge the volume"
        )
    return f"to be fetched, {size_text(size)}" if size is not None else "to be fetched"


def _caches(settings: ModelServerSettings, warnings: list[str]) -> str:
    return str(engine_cache(settings, warnings.append))


def _shared_memory() -> str:
    size = shutil.disk_usage(_SHARED_MEMORY).total if _SHARED_MEMORY.is_dir() else 0
    said = f"{size // 2**20} MiB"
    if size < _SHARED_MEMORY_BYTES:
        return f"{said}, which may be too little: mount an emptyDir of medium Memory on /dev/shm"
    return said
