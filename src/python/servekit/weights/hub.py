"""Fetch a repository of the Hugging Face hub into a folder, and check every file by its hash."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from servekit.errors.tree import WeightsMissing, WeightsUnreachable
from servekit.secrets.secret import Secret
from servekit.timing.clock import Clock, SystemClock
from servekit.weights.arrivals import Stopped
from servekit.weights.download import RangedDownload, Refused, open_session
from servekit.weights.files import fetch_files, inside
from servekit.weights.progress import ProgressReporter
from servekit.weights.selection import INDEX, RepoFile, select_files
from servekit.weights.source import HubRepo

T = TypeVar("T")

PUBLIC_HUB = "https://huggingface.co"

# A listing of ten thousand files; an index of a trillion parameters.
_MAX_LISTING_BYTES = 64 * 1024 * 1024
# How soon a thread that fetches ends once it was asked to.
_POLL_S = 0.1


class _Lfs(msgspec.Struct, frozen=True):
    sha256: str | None = None
    size: int | None = None


class _Sibling(msgspec.Struct, frozen=True, rename="camel"):
    rfilename: str
    size: int | None = None
    blob_id: str | None = None
    lfs: _Lfs | None = None


class _Listing(msgspec.Struct, frozen=True):
    sha: str
    siblings: list[_Sibling]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What of a repository at one commit is fetched."""

    repo_id: str
    commit: str
    files: tuple[RepoFile, ...]

    @property
    def size(self) -> int | None:
        """Bytes of all files; None where the hub does not say."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)


class HubDownload:
    """Fetches repositories, going on where an earlier attempt ended.

    *token* is for gated and private repositories, *endpoint* the hub's address where it is not the
    public one.
    """

    def __init__(
        self,
        token: Secret | str | None = None,
        endpoint: str | None = None,
        *,
        allow_pickle: bool = False,
    ) -> None:
        self._token = token if isinstance(token, Secret) else Secret(token or "")
        self._endpoint = (endpoint or PUBLIC_HUB).rstrip("/")
        self._allow_pickle = allow_pickle

    async def fetch(
        self,
        repo: HubRepo,
        folder: Path,
        *,
        clock: Clock,
        report: ProgressReporter,
        room: Callable[[int], None] | None = None,
    ) -> None:
        """Return once every file of *repo* that vLLM needs is in *folder*, with the right content.

        *room* is told the bytes of all files before the first is asked for, and may raise.

        Raises:
            WeightsMissing: the hub has no such repository or revision, or hides it from us.
            WeightsUnreachable: it could not be brought.
            WeightsRefused: a file has not the hash that the hub says, twice; or all are pickles.
        """
        async with open_session() as session:
            download = RangedDownload(session, clock=clock, report=report, sign=self._sign)
            snapshot = await self._snapshot(repo, download)
            report("hub snapshot", commit=snapshot.commit, total_bytes=snapshot.size)
            if room is not None and snapshot.size is not None:
                room(snapshot.size)
            urls = {
                file: self._url(repo.repo_id, snapshot.commit, file.path) for file in snapshot.files
            }
            try:
                await fetch_files(urls, folder, download, report=report)
            except Refused as error:
                raise self._translated(repo, error) from None
        await asyncio.to_thread(_note_commit, folder, snapshot.commit, snapshot.files)

    def __call__(self, repo: HubRepo, folder: Path, stop: threading.Event | None = None) -> None:
        """As `fetch`, for threads without an event loop.  Blocks.

        Raises:
            Stopped: *stop* was set.
        """
        asyncio.run(self._fetch_until(stop or threading.Event(), repo, folder))

    async def _fetch_until(self, stop: threading.Event, repo: HubRepo, folder: Path) -> None:
        fetch = asyncio.ensure_future(self.fetch(repo, folder, clock=SystemClock(), report=_silent))
        while not stop.is_set():
            done, _ = await asyncio.wait([fetch], timeout=_POLL_S)
            if done:
                return fetch.result()
        fetch.cancel()
        await asyncio.wait([fetch])
        raise Stopped

    def size(self, repo: HubRepo) -> int | None:
        """Return the bytes that a fetch would bring; None where the hub does not say.  Blocks.

        Raises:
            WeightsMissing, WeightsUnreachable, WeightsRefused: as for a fetch.
        """
        return self._blocking(lambda download: self._snapshot(repo, download)).size

    def require_access(self, repo: HubRepo) -> None:
        """Check that its files may be read with this token: the listing is open, the files gated.

        Raises:
            WeightsMissing, WeightsUnreachable: as for a fetch.  Blocks.
        """
        url = f"{self._endpoint}/api/models/{repo.repo_id}/auth-check"
        self._blocking(lambda download: self._read(repo, url, download))

    def _blocking(self, work: Callable[[RangedDownload], Coroutine[Any, Any, T]]) -> T:
        async def run() -> T:
            async with open_session() as session:
                clock = SystemClock()
                return await work(
                    RangedDownload(session, clock=clock, report=_silent, sign=self._sign)
                )

        return asyncio.run(run())

    async def _snapshot(self, repo: HubRepo, download: RangedDownload) -> Snapshot:
        revision = quote(repo.revision, safe="")
        url = f"{self._endpoint}/api/models/{repo.repo_id}/revision/{revision}?blobs=true"
        listing = _decoded(await self._read(repo, url, download), _Listing, repo)
        files = [_file(sibling) for sibling in listing.siblings]
        indexed: set[str] = set()
        if any(file.path == INDEX for file in files):
            text = await self._read(repo, self._url(repo.repo_id, listing.sha, INDEX), download)
            indexed = {str(name) for name in _weight_map(text, repo).values()}
        chosen = select_files(files, indexed, allow_pickle=self._allow_pickle)
        return Snapshot(repo.repo_id, listing.sha, tuple(chosen))

    async def _read(self, repo: HubRepo, url: str, download: RangedDownload) -> bytes:
        try:
            text, _ = await download.read(url, _MAX_LISTING_BYTES)
        except Refused as error:
            raise self._translated(repo, error) from None
        except WeightsUnreachable as error:
            raise WeightsUnreachable(f"{repo.repo_id} could not be fetched: {error}") from None
        return text

    def _url(self, repo_id: str, commit: str, path: str) -> str:
        return f"{self._endpoint}/{repo_id}/resolve/{quote(commit, safe='')}/{quote(path)}"

    def _sign(self, url: str) -> Mapping[str, str]:
        ours = urlsplit(self._endpoint)
        asked = urlsplit(url)
        if not self._token or (ours.scheme, ours.netloc) != (asked.scheme, asked.netloc):
            return {}
        return {"Authorization": f"Bearer {self._token.reveal().strip()}"}

    def _translated(self, repo: HubRepo, error: Refused) -> WeightsMissing:
        """Return what the hub's refusal means, with what to do about it."""
        if error.code == "GatedRepo":
            return WeightsMissing(_why_closed(repo, bool(self._token)))
        if error.code == "RevisionNotFound":
            return WeightsMissing(
                f"{repo.repo_id} has no revision {repo.revision!r}; name a branch, tag or commit"
            )
        if error.code == "RepoNotFound" or error.status in (404, 410):
            return WeightsMissing(
                f"the hub shows no repository {repo.repo_id!r}; correct the name, or set HF_TOKEN "
                "if it is private"
            )
        return WeightsMissing(_why_refused(repo, bool(self._token), error.status))


def _file(sibling: _Sibling) -> RepoFile:
    lfs = sibling.lfs
    size = sibling.size if lfs is None or lfs.size is None else lfs.size
    if lfs is not None and lfs.sha256:
        return RepoFile(sibling.rfilename, size, f"sha256:{lfs.sha256}")
    # Of a large file the blob is a pointer, whose hash says nothing.
    has_blob = lfs is None and sibling.blob_id
    return RepoFile(sibling.rfilename, size, f"git-sha1:{sibling.blob_id}" if has_blob else None)


def _note_commit(folder: Path, commit: str, files: tuple[RepoFile, ...]) -> None:
    """Leave the commit as the hub's own tool does."""
    for file in files:
        note = folder / ".cache/huggingface/download" / f"{inside(file.path)}.metadata"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(f"{commit}\n{(file.digest or '').partition(':')[2]}\n0\n")


def _decoded(text: bytes, kind: type[T], repo: HubRepo) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.MsgspecError as error:
        raise WeightsUnreachable(
            f"the hub's answer for {repo.repo_id} is no listing of files: {error}; check "
            "HF_ENDPOINT, and the network for a proxy in between"
        ) from error


def _weight_map(text: bytes, repo: HubRepo) -> dict[str, Any]:
    index = _decoded(text, dict[str, Any], repo)
    found = index.get("weight_map")
    return found if isinstance(found, dict) else {}


def _silent(event: str, **_: object) -> None:
    del event


def _why_closed(repo: HubRepo, has_token: bool) -> str:
    """Gated: the hub says so without a token, and with one whose licence is not accepted."""
    if not has_token:
        return (
            f"{repo.repo_id} is gated, and no HF_TOKEN was given; accept its licence on the hub, "
            "and set HF_TOKEN to a token of that account"
        )
    return (
        f"{repo.repo_id} is gated, and the account of this HF_TOKEN has not accepted its licence; "
        "accept it on the hub, and wait until access is granted"
    )


def _why_refused(repo: HubRepo, has_token: bool, status: int) -> str:
    if not has_token:
        return f"the hub refuses {repo.repo_id} without a token ({status}); set HF_TOKEN"
    if status == 401:
        return (
            f"the hub does not know this HF_TOKEN (401, for {repo.repo_id}): it is mistyped, "
            "revoked or expired; make another one in the hub's settings"
        )
    return (
        f"this HF_TOKEN may not read {repo.repo_id} (403); give it read access to gated "
        "repositories, or use a token of the type 'read'"
    )
