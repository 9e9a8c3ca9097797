"""Bring a model to this machine, at most once.

Three looks come before the first request: a folder that lies ready is used as it is; a whole copy
in the cache is used without a lock; and whoever waited for the lock looks again, because another
process may have finished meanwhile.  A copy appears by one rename, after it was verified, so that
no reader ever sees a part of it.
"""

import asyncio
import hashlib
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from servekit.errors.tree import WeightsMissing, WeightsRefused, WeightsUnreachable
from servekit.timing.clock import Clock
from servekit.weights.archive import unpack
from servekit.weights.cache import (
    Cache,
    find_copy,
    find_placed,
    link_copy,
    put_copy,
    remove,
    remove_dangling_links,
)
from servekit.weights.download import Download
from servekit.weights.lock import locked
from servekit.weights.model_folder import find_model, require_model
from servekit.weights.progress import Progress, Report
from servekit.weights.source import (
    HubRepo,
    LocalArchive,
    LocalFolder,
    Source,
    Tarball,
    cache_name,
    readable_name,
    shown,
)

T = TypeVar("T")

# Larger than any model that is served today (DeepSeek-V3 in bfloat16: 1.3 TB).
MAX_MODEL_BYTES = 4 * 1024**4

_HASH_BYTES = 4 * 1024 * 1024


class FetchRepo(Protocol):
    """Bring a repository of the hub into a folder; blocks."""

    def __call__(self, repo: HubRepo, folder: Path) -> None:
        """As `HubDownload`."""


@dataclass(frozen=True, slots=True)
class Fetchers:
    """How each kind of source is brought here."""

    download: Download
    repo: FetchRepo


async def ensure_model(
    source: Source,
    cache: Cache,
    fetchers: Fetchers,
    *,
    clock: Clock,
    report: Report,
    max_bytes: int = MAX_MODEL_BYTES,
) -> Path:
    """Return the folder of the model that *source* names, fetching it if it is nowhere yet.

    *max_bytes* bounds what an archive may unpack to.

    Raises:
        WeightsMissing: there is nothing at *source*.
        WeightsUnreachable: it could not be brought.
        WeightsRefused: what was brought is no whole model, or not a safe archive.
    """
    if isinstance(source, LocalFolder):
        return _require_folder(source.path)
    _require_archive(source)
    found = _find(source, cache, report)
    if found is not None:
        return found
    name = cache_name(source)
    async with locked(cache.lock(name), clock=clock, report=report):
        dangling = remove_dangling_links(cache.checkpoints)
        if dangling:
            report("dangling links removed", links=dangling)
        if find_copy(cache, name) is None:
            await _Fetch(source, cache, fetchers, clock, report, max_bytes).run()
    return link_copy(cache, name)


def _find(source: Tarball | LocalArchive | HubRepo, cache: Cache, report: Report) -> Path | None:
    name = cache_name(source)
    copy = find_copy(cache, name)
    if copy is not None:
        report("model found in the cache", folder=str(copy))
        return copy if copy.parent == cache.checkpoints else link_copy(cache, name)
    placed = find_placed(cache, readable_name(source))
    if placed is not None:
        report("model found, placed by hand; remove it to fetch the weights", folder=str(placed))
    return placed


def _require_folder(path: Path) -> Path:
    if not path.exists():
        raise WeightsMissing(f"the weights folder {str(path)!r} does not exist; correct the path")
    if not path.is_dir():
        raise WeightsMissing(f"the weights path {str(path)!r} is neither a folder nor a tar")
    if not any(path.iterdir()):
        raise WeightsMissing(f"the weights folder {str(path)!r} is empty; put a model into it")
    return path


def _require_archive(source: Tarball | LocalArchive | HubRepo) -> None:
    if isinstance(source, LocalArchive) and not source.path.is_file():
        raise WeightsMissing(f"the archive {str(source.path)!r} does not exist; correct the path")


@dataclass(frozen=True, slots=True)
class _Fetch:
    """One fetch, by the holder of the lock."""

    source: Tarball | LocalArchive | HubRepo
    cache: Cache
    fetchers: Fetchers
    clock: Clock
    report: Report
    max_bytes: int

    async def run(self) -> None:
        name = cache_name(self.source)
        partial = self.cache.partial(name)
        partial.mkdir(parents=True, exist_ok=True)
        try:
            folder = await self._bring(partial)
            model = find_model(folder)
            require_model(model)
            put_copy(self.cache, name, model, _described(self.source))
        except WeightsRefused:
            # Whatever was wrong with it will be wrong with it the next time.
            remove(partial)
            raise
        except OSError as error:
            raise WeightsUnreachable(
                f"{_described(self.source)} could not be kept in {self.cache.store}: {error}; make "
                "room twice the size of the model, and start again: what came is kept"
            ) from error
        remove(partial)

    async def _bring(self, partial: Path) -> Path:
        if isinstance(self.source, HubRepo):
            folder = partial / "repo"
            await _in_thread(lambda _: self.fetchers.repo(self.source, folder))  # type: ignore[arg-type]
            remove(folder / ".cache")
            return folder
        archive = partial / "archive"
        if isinstance(self.source, LocalArchive):
            archive = self.source.path
        else:
            await self.fetchers.download(self.source.url, archive)
            await _in_thread(lambda _: _require_checksum(archive, self.source))  # type: ignore[arg-type]
        return await self._unpack(archive, partial / "files")

    async def _unpack(self, archive: Path, folder: Path) -> Path:
        # Left behind by a process that died here.
        remove(folder)
        progress = Progress("unpacking", None, report=self.report, clock=self.clock)
        free_bytes = shutil.disk_usage(folder.parent).free
        await _in_thread(
            lambda stop: unpack(
                archive,
                folder,
                max_bytes=min(self.max_bytes, free_bytes),
                stop=stop,
                wrote=progress.add,
            )
        )
        progress.finish()
        return folder


def _described(source: Tarball | LocalArchive | HubRepo) -> str:
    if isinstance(source, Tarball):
        return shown(source.url)
    if isinstance(source, HubRepo):
        return f"hf://{source.repo_id}@{source.revision}"
    return str(source.path)


def _require_checksum(archive: Path, source: Tarball) -> None:
    if source.sha256 is None:
        return
    digest = hashlib.sha256()
    with archive.open("rb") as file:
        while piece := file.read(_HASH_BYTES):
            digest.update(piece)
    if digest.hexdigest() != source.sha256:
        raise WeightsRefused(
            f"{shown(source.url)} hashes to {digest.hexdigest()}, and not to the sha256 that its "
            "URL ends in; one of the two is wrong"
        )


async def _in_thread(work: Callable[[threading.Event], T]) -> T:
    """Run *work* in a thread; when cancelled, ask it to stop, and wait until it has.

    To leave before it ends would give up the lock while it still writes.
    """
    stop = threading.Event()
    task = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([task])
        raise
