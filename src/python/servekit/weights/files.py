"""Fetch the files of a model, each checked by its hash, from a hub or a bucket."""

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from servekit.errors.tree import WeightsRefused
from servekit.weights.arrivals import Arrivals
from servekit.weights.digest import digest_behind
from servekit.weights.download import RangedDownload, journal_of
from servekit.weights.progress import ProgressReporter
from servekit.weights.selection import RepoFile
from servekit.weights.threads import in_thread

# Small files cost a round trip each: so many at once.
_FILES_AT_ONCE = 8
_SMALL_BYTES = 8 * 1024 * 1024


async def fetch_files(
    urls: Mapping[RepoFile, str],
    folder: Path,
    download: RangedDownload,
    *,
    report: ProgressReporter,
) -> None:
    """Return once every file of *urls* is in *folder*, with the content that its hash names.

    Raises:
        WeightsMissing, WeightsUnreachable: as for a download.
        WeightsRefused: a file has another hash, twice.
    """
    fetch = _FileFetch(folder, download, report)
    small = [file for file in urls if (file.size or 0) <= _SMALL_BYTES]
    slots = asyncio.Semaphore(_FILES_AT_ONCE)
    try:
        async with asyncio.TaskGroup() as group:
            for file in small:
                group.create_task(fetch.in_turn(file, urls[file], slots))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    # Each of the others has all connections to itself.
    for file in sorted(set(urls) - set(small), key=lambda one: one.path):
        await fetch.file(file, urls[file])
    await asyncio.to_thread(_forget_journals, folder, list(urls))


@dataclass(frozen=True, slots=True)
class _FileFetch:
    folder: Path
    download: RangedDownload
    report: ProgressReporter

    async def in_turn(self, file: RepoFile, url: str, slots: asyncio.Semaphore) -> None:
        async with slots:
            await self.file(file, url)

    async def file(self, file: RepoFile, url: str) -> None:
        target = self.folder / inside(file.path)
        if file.size == 0:
            await asyncio.to_thread(_write_empty, target)
            return
        found = await self._once(file, url, target)
        if found != file.digest:
            await asyncio.to_thread(_forget, target)
            self.report("file damaged on the way; fetching it again", path=file.path)
            found = await self._once(file, url, target)
        if found != file.digest:
            await asyncio.to_thread(_forget, target)
            raise WeightsRefused(
                f"{file.path} was fetched twice, and its hash is {found}, not {file.digest}; check "
                "the proxy or mirror in between"
            )

    async def _once(self, file: RepoFile, url: str, target: Path) -> str | None:
        """Fetch *file*, and return its hash, which is made as it arrives; None without one."""
        arrivals = Arrivals()
        if file.digest is None:
            await self.download(url, target, arrivals)
            return None
        kind = file.digest.partition(":")[0]

        def check(stop: threading.Event) -> str:
            return digest_behind(target, kind, arrivals, stop)

        try:
            async with asyncio.TaskGroup() as group:
                found = group.create_task(in_thread(check))
                await self.download(url, target, arrivals)
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return found.result()


def inside(path: str) -> PurePosixPath:
    """Return *path*, that a server listed, as one below a folder.

    Raises:
        WeightsRefused: it leads out of the folder.
    """
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\0" in path:
        raise WeightsRefused(f"the listing has a file {path[:200]!r} outside of its folder")
    return pure


def _forget_journals(folder: Path, files: list[RepoFile]) -> None:
    for file in files:
        journal_of(folder / inside(file.path)).unlink(missing_ok=True)


def _forget(target: Path) -> None:
    target.unlink(missing_ok=True)
    journal_of(target).unlink(missing_ok=True)


def _write_empty(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"")
