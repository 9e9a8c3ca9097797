"""The model on the volume: found there, or brought there once."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from model_server.settings import ModelServerSettings
from servekit.container.local_model import LocalModel, find_snapshot, read_facts
from servekit.container.startup_progress import StartupProgress
from servekit.errors.tree import ServeError, WeightsMissing, WeightsUnreachable
from servekit.timing.clock import Clock
from servekit.weights.cache import Cache, bytes_on_disk, find_copy
from servekit.weights.download import RangedDownload, open_session
from servekit.weights.model import Fetchers, FetchRepo, ensure_model
from servekit.weights.model_folder import is_model, require_model
from servekit.weights.progress import ProgressReporter
from servekit.weights.source import HubRepo, LocalFolder, Source, cache_name, parse_source

# Often enough for people who watch /startup, seldom enough for a network file system.
WATCH_S = 2.0


class Hub(FetchRepo, Protocol):
    """A hub that says how much it would send."""

    def size(self, repo: HubRepo) -> int | None:
        """As `HubDownload.size`."""

    def require_access(self, repo: HubRepo) -> None:
        """As `HubDownload.require_access`."""


def read_source(settings: ModelServerSettings) -> Source:
    """Return what MODEL_NAME names: a folder from the root, a tar, or a hub id.

    Raises:
        WeightsMissing: it names none of them.
    """
    # A hub id is one wherever we were started: no folder of the working directory stands for it.
    source = parse_source(settings.model_name, lambda path: path.is_absolute() and path.exists())
    if isinstance(source, HubRepo) and settings.model_revision:
        return HubRepo(source.repo_id, settings.model_revision)
    return source


def find_here(settings: ModelServerSettings, source: Source) -> Path | None:
    """Return the folder of the whole model if it is on this machine.  Asks nobody.

    Raises:
        WeightsMissing, WeightsRefused: a folder was named, and holds no model.
    """
    if isinstance(source, LocalFolder):
        return _require_folder(source.path)
    copy = find_copy(_cache(settings), cache_name(source))
    if copy is not None:
        return copy
    return _find_placed(settings, source)


def _require_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise WeightsMissing(f"the model folder {str(folder)!r} does not exist; correct MODEL_NAME")
    require_model(folder)
    return folder


def _find_placed(settings: ModelServerSettings, source: Source) -> Path | None:
    """What somebody else put there: the hub's own tool, or a hand, under a name that is served."""
    if not isinstance(source, HubRepo):
        return None
    places = [settings.models_folder / name for name in settings.names if "/" not in name]
    try:
        snapshot = find_snapshot(source.repo_id, settings.model_revision, settings.hf_home)
    except ServeError:
        snapshot = None
    if snapshot is not None:
        places.insert(0, snapshot)
    # By a name alone nobody can tell which revision it is.
    if settings.model_revision:
        places = places[: 1 if snapshot else 0]
    return next((place for place in places if is_model(place)), None)


async def bring_model(
    settings: ModelServerSettings,
    hub: Hub,
    progress: StartupProgress,
    *,
    environ: Mapping[str, str],
    clock: Clock,
    report: ProgressReporter,
) -> LocalModel:
    """Return the model, fetched to the volume if it is not there yet.

    One process fetches and the others wait; what a dead one left is gone on with.

    Raises:
        WeightsMissing: there is no such model, or the hub hides it from us.
        WeightsUnreachable: it could not be brought, or there is no room for it.
        WeightsRefused: what was brought is no whole model.
    """
    source = read_source(settings)
    folder = await asyncio.to_thread(find_here, settings, source)
    if folder is None:
        _require_online(settings)
        folder = await _fetch(
            settings, source, hub, progress, environ=environ, clock=clock, report=report
        )
    commit = folder.name if folder.parent.name == "snapshots" else settings.model_revision
    return LocalModel(
        settings.public_model_name, folder, commit, read_facts(folder / "config.json")
    )


def _require_online(settings: ModelServerSettings) -> None:
    if settings.hf_hub_offline:
        raise WeightsMissing(
            f"{settings.public_model_name} is neither in {settings.models_folder} nor in "
            f"{settings.hf_home}; put it there, or set HF_HUB_OFFLINE=0 to fetch it at start"
        )


async def _fetch(
    settings: ModelServerSettings,
    source: Source,
    hub: Hub,
    progress: StartupProgress,
    *,
    environ: Mapping[str, str],
    clock: Clock,
    report: ProgressReporter,
) -> Path:
    assert not isinstance(source, LocalFolder)
    cache = _cache(settings)
    require_writable(settings.models_folder)
    partial = cache.partial(cache_name(source))
    async with open_session() as session, _watched(partial, progress, clock):
        download = RangedDownload(session, clock=clock, report=report)
        fetchers = Fetchers.of(download, hub, environ)
        return await ensure_model(source, cache, fetchers, clock=clock, report=report)


def require_writable(folder: Path) -> None:
    """Check that a model can be kept in *folder*, and make it if it is not there.

    Raises:
        WeightsUnreachable: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return
        why = f"user {os.getuid()} may not write there"
    except OSError as error:
        why = error.strerror or str(error)
    raise WeightsUnreachable(
        f"no model can be kept in {folder}: {why}; mount a volume that this user may write "
        "(fsGroup: 10001), or one that has the model"
    )


def room_missing(size: int | None, store: Path, partial: Path) -> int:
    """Return the bytes that *store* lacks for a model of *size*, of which *partial* has a part."""
    if size is None:
        return 0
    free = shutil.disk_usage(store).free
    return max(0, size - bytes_on_disk(partial) - free)


def size_text(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


@asynccontextmanager
async def _watched(partial: Path, progress: StartupProgress, clock: Clock) -> AsyncIterator[None]:
    """Say meanwhile how much has come."""

    async def watch() -> None:
        while True:
            came = await asyncio.to_thread(bytes_on_disk, partial)
            progress.phase = f"downloading: {size_text(came)} so far"
            await clock.sleep(WATCH_S)

    watching = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        progress.phase = ""


def _cache(settings: ModelServerSettings) -> Cache:
    return Cache(store=settings.models_folder, checkpoints=settings.models_folder)
