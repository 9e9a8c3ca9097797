"""Bring a model to this machine, at most once.

Three looks come before the first request: a folder that lies ready is used as it is; a whole copy
in the cache is used without a lock; and a process that waited for the lock looks again, because
another one may have finished meanwhile.  A copy appears by one rename, after it was verified, so
that no reader ever sees a part of it.
"""

import asyncio
import shutil
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from servekit.errors.tree import (
    SettingInvalid,
    WeightsMissing,
    WeightsRefused,
    WeightsUnreachable,
)
from servekit.settings.environment import Settings, read_settings
from servekit.timing.clock import Clock
from servekit.weights.archive import Lost, Unpacking, freed_note, unpack
from servekit.weights.arrivals import Arrivals, Restarted
from servekit.weights.buckets import BucketAccess, BucketDownload
from servekit.weights.cache import (
    Cache,
    bytes_on_disk,
    evict,
    find_copy,
    find_placed,
    link_copy,
    put_copy,
    remove,
    remove_dangling_links,
    remove_dead_partials,
    touch,
)
from servekit.weights.digest import digest_behind
from servekit.weights.download import Download, RangedDownload, journal_of, open_session
from servekit.weights.lock import locked
from servekit.weights.model_folder import find_model, require_model, require_no_pickles
from servekit.weights.progress import DownloadProgress, ProgressReporter
from servekit.weights.source import (
    BucketFolder,
    Fetched,
    HubRepo,
    LocalArchive,
    LocalFolder,
    Source,
    Tarball,
    cache_name,
    described,
    former_cache_name,
    readable_name,
)
from servekit.weights.threads import in_thread

# Larger than any model that is served today (DeepSeek-V3 in bfloat16: 1.3 TB).
MAX_MODEL_BYTES = 4 * 1024**4

# Left free on a volume: markers, links, and what others write meanwhile.
_SPARE_BYTES = 64 * 1024**2


class FetchRepo(Protocol):
    """A hub."""

    async def fetch(
        self,
        repo: HubRepo,
        folder: Path,
        *,
        clock: Clock,
        report: ProgressReporter,
        room: Callable[[int], None] | None = None,
    ) -> None:
        """As `HubDownload.fetch`."""


class WeightsSettings(Settings, frozen=True):
    """What a download reads from the environment, whichever program asks.

    Attributes:
        allow_pickle: whether weights may run code as they are loaded.
        weights_max_gb: the most that kept models take together; None for what the volume holds.
    """

    allow_pickle: bool = False
    weights_max_gb: float | None = None

    @property
    def max_cache_bytes(self) -> int | None:
        return None if self.weights_max_gb is None else int(self.weights_max_gb * 1e9)


def read_weights_settings(environ: Mapping[str, str]) -> WeightsSettings:
    """Return the settings in *environ*.

    Raises:
        SettingInvalid: a value cannot be used.
    """
    settings = read_settings(WeightsSettings, environ, lambda _: None)
    if settings.weights_max_gb is not None and not 0 < settings.weights_max_gb < float("inf"):
        raise SettingInvalid(f"WEIGHTS_MAX_GB is {settings.weights_max_gb}; it is above 0")
    return settings


class NoRoom(WeightsUnreachable):
    """The volume has less space free than the model takes."""


@dataclass(frozen=True, slots=True)
class Fetchers:
    """How each kind of source is brought here.

    Attributes:
        buckets: gs:// and s3://, by default without credentials.
        allow_pickle: whether weights may run code as they are loaded.
        max_cache_bytes: the most that copies take together; None for what the volume holds.
    """

    download: Download
    repo: FetchRepo
    buckets: BucketDownload = field(default_factory=lambda: BucketDownload(BucketAccess.of({})))
    allow_pickle: bool = False
    max_cache_bytes: int | None = None

    @classmethod
    def of(cls, download: Download, repo: FetchRepo, environ: Mapping[str, str]) -> "Fetchers":
        """Return them with what *environ* says of buckets, pickles and the size of the cache.

        Raises:
            SettingInvalid: it says something that cannot be used.
        """
        settings = read_weights_settings(environ)
        return cls(
            download,
            repo,
            BucketDownload(BucketAccess.of(environ)),
            allow_pickle=settings.allow_pickle,
            max_cache_bytes=settings.max_cache_bytes,
        )


async def ensure_model(
    source: Source,
    cache: Cache,
    fetchers: Fetchers,
    *,
    clock: Clock,
    report: ProgressReporter,
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
    found = await asyncio.to_thread(_find, source, cache, report)
    if found is not None:
        return found
    if fetchers.max_cache_bytes is not None:
        cache = replace(cache, max_bytes=fetchers.max_cache_bytes)
    name = cache_name(source)
    async with locked(cache.lock(name), clock=clock, report=report):
        await asyncio.to_thread(_clean, cache, name, report)
        if find_copy(cache, name) is None:
            cache = await _fetch_where_room_is(
                _Fetch(source, cache, fetchers, clock, report, max_bytes)
            )
    return link_copy(cache, name)


async def _fetch_where_room_is(fetch: "_Fetch") -> Cache:
    """Run *fetch*, in the other place where its store is too small; return where the copy is."""
    cache = fetch.cache
    try:
        await fetch.run()
    except NoRoom as error:
        if cache.store == cache.checkpoints:
            raise
        fetch.report("the volume is too small; trying the local disk", reason=str(error))
        cache = replace(cache, store=cache.checkpoints)
        await replace(fetch, cache=cache).run()
    return cache


def _clean(cache: Cache, name: str, report: ProgressReporter) -> None:
    dangling = remove_dangling_links(cache.checkpoints)
    if dangling:
        report("dangling links removed", links=dangling)
    dead = remove_dead_partials(cache, name)
    if dead:
        report("unfinished downloads of other models removed", models=dead)


def _find(source: Fetched, cache: Cache, report: ProgressReporter) -> Path | None:
    for name in (cache_name(source), former_cache_name(source)):
        copy = find_copy(cache, name) if name else None
        if copy is None or name is None:
            continue
        report("model found in the cache", folder=str(copy))
        touch(copy)
        return link_copy(cache, name) if copy.parent == cache.store else copy
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


def _require_archive(source: Fetched) -> None:
    if isinstance(source, LocalArchive) and not source.path.is_file():
        raise WeightsMissing(f"the archive {str(source.path)!r} does not exist; correct the path")


@dataclass(frozen=True, slots=True)
class _Fetch:
    """One fetch, by the holder of the lock."""

    source: Fetched
    cache: Cache
    fetchers: Fetchers
    clock: Clock
    report: ProgressReporter
    max_bytes: int

    async def run(self) -> None:
        name = cache_name(self.source)
        partial = self.cache.partial(name)
        try:
            partial.mkdir(parents=True, exist_ok=True)
            folder = await self._bring(partial)
            await asyncio.to_thread(self._publish, name, folder)
        except WeightsRefused:
            # Whatever was wrong with it will be wrong with it the next time.
            remove(partial)
            raise
        except OSError as error:
            raise WeightsUnreachable(
                f"{described(self.source)} could not be kept in {self.cache.store}: {error}; make "
                "room, and start again: what came is kept"
            ) from error
        remove(partial)

    def _publish(self, name: str, folder: Path) -> None:
        model = find_model(folder)
        require_model(model)
        if not self.fetchers.allow_pickle:
            require_no_pickles(model)
        put_copy(self.cache, name, model, described(self.source))

    async def _bring(self, partial: Path) -> Path:
        match self.source:
            case HubRepo():
                folder = partial / "repo"
                await self.fetchers.repo.fetch(
                    self.source,
                    folder,
                    clock=self.clock,
                    report=self.report,
                    room=lambda size: self._require_room(size, folder),
                )
                remove(folder / ".cache")
                return folder
            case BucketFolder():
                folder = partial / "folder"
                await self.fetchers.buckets.fetch(
                    self.source,
                    folder,
                    clock=self.clock,
                    report=self.report,
                    room=lambda size: self._require_room(size, folder),
                )
                return folder
            case LocalArchive(path):
                arrivals = Arrivals()
                arrivals.finish(path.stat().st_size)
                remove(partial / "files")
                return await self._unpack(path, partial / "files", arrivals, frees=False)
            case Tarball():
                return await self._download(self.source, partial)

    async def _download(self, source: Tarball, partial: Path) -> Path:
        if not source.url.lower().startswith(("gs://", "s3://")):
            return await self._download_from(source.url, source, partial, self.fetchers.download)
        buckets = self.fetchers.buckets
        scheme, _, rest = source.url.partition("://")
        bucket, _, key = rest.partition("/")
        async with open_session() as session:
            sign = await buckets.sign(scheme.lower(), session)
            download = RangedDownload(session, clock=self.clock, report=self.report, sign=sign)
            url = buckets.url(scheme.lower(), bucket.rpartition("@")[2], key)
            return await self._download_from(url, source, partial, download)

    async def _download_from(
        self, url: str, source: Tarball, partial: Path, download: Download
    ) -> Path:
        """Fetch and unpack at once; from the start where what was unpacked is lost."""
        archive, files = partial / "archive", partial / "files"
        # Its hash is made of the whole archive, which therefore stays until it is known.
        frees = source.sha256 is None
        while True:
            arrivals = Arrivals(
                lambda size, resumed: self._require_room_for(source, partial, size, resumed)
            )
            if not freed_note(archive).exists():
                # What was unpacked of a compressed archive cannot be gone on with.
                remove(files)
            try:
                async with asyncio.TaskGroup() as group:
                    digest = group.create_task(self._digest(archive, source, arrivals))
                    group.create_task(self._unpack(archive, files, arrivals, frees=frees))
                    await download(url, archive, arrivals)
            except ExceptionGroup as failures:
                error = failures.exceptions[0]
                if not isinstance(error, Lost):
                    raise error from None
                for stale in (archive, journal_of(archive), freed_note(archive), files):
                    remove(stale)
                continue
            _require_checksum(source, digest.result())
            return files

    async def _digest(self, archive: Path, source: Tarball, arrivals: Arrivals) -> str:
        if source.sha256 is None:
            return ""
        return await in_thread(lambda stop: digest_behind(archive, "sha256", arrivals, stop))

    async def _unpack(
        self, archive: Path, folder: Path, arrivals: Arrivals, *, frees: bool
    ) -> Path:
        progress = DownloadProgress("unpacking", None, report=self.report, clock=self.clock)

        def work(stop: threading.Event) -> None:
            while True:
                arrivals.begun(stop)
                if not arrivals.is_resumed:
                    remove(folder)
                    remove(freed_note(archive))
                free_bytes = shutil.disk_usage(folder.parent).free + (arrivals.size or 0)
                how = Unpacking(min(self.max_bytes, free_bytes), stop, progress.add, frees)
                with suppress(Restarted):
                    unpack(archive, folder, arrivals, how)
                    return

        await in_thread(work)
        progress.finish()
        return folder

    def _require_room_for(
        self, source: Tarball, partial: Path, size: int | None, resumed: int
    ) -> None:
        """Check for room for the archive, and for what is unpacked beside it where it must stay."""
        if size is None:
            return
        is_plain = source.url.partition("?")[0].endswith(".tar") and source.sha256 is None
        self._require_room(size if is_plain else 2 * size, partial, resumed)

    def _require_room(self, size: int, partial: Path, resumed: int | None = None) -> None:
        """Check that the store has room for *size* bytes, of which *partial* has some.

        Raises:
            NoRoom: it has not.
        """
        here = bytes_on_disk(partial) if resumed is None else resumed
        evicted = evict(self.cache, cache_name(self.source), size, self._missing_bytes(size - here))
        if evicted:
            self.report("least recently used models removed", models=evicted)
        missing = self._missing_bytes(size - here)
        if missing > 0:
            raise NoRoom(
                f"{described(self.source)} needs {_gigabytes(missing)} GB more than "
                f"{self.cache.store} has free; enlarge the volume, or remove models from it"
            )

    def _missing_bytes(self, coming_bytes: int) -> int:
        free = shutil.disk_usage(self.cache.store).free
        return coming_bytes + _SPARE_BYTES - free


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f}"


def _require_checksum(source: Tarball, digest: str) -> None:
    if source.sha256 is not None and digest != f"sha256:{source.sha256}":
        raise WeightsRefused(
            f"{described(source)} hashes to {digest}, and not to the sha256 that its URL ends in; "
            "one of the two is wrong"
        )
