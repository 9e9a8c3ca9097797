"""Where weights come from, and the name that a copy of them is kept under.  Pure."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from servekit.errors.tree import WeightsMissing

_HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")
_ARCHIVE_ENDS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_CHECKSUM = re.compile(r"sha256=(?P<digest>[0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True)
class Tarball:
    """An archive behind a URL.

    Attributes:
        sha256: what the archive must hash to, in lower case; None where nobody said.
    """

    url: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class LocalArchive:
    """An archive on this machine."""

    path: Path


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A model that lies ready, and that nobody may change."""

    path: Path


@dataclass(frozen=True, slots=True)
class HubRepo:
    """A repository of the Hugging Face hub, at a branch, a tag or a commit."""

    repo_id: str
    revision: str = "main"


Source = Tarball | LocalArchive | LocalFolder | HubRepo


def parse_source(text: str, exists: Callable[[Path], bool] = Path.exists) -> Source:
    """Return what *text* names: a URL, a path, or a hub id with an optional `@revision`.

    A URL may end in `#sha256=<hex>`.  `org/name` is a path where *exists* finds one, else a hub id;
    `hf://org/name` is always a hub id.

    Raises:
        WeightsMissing: the text is blank, or names a scheme that is not http, https, file or hf.
    """
    text = text.strip()
    if not text:
        raise WeightsMissing(f"no weights are given; {_REMEDY}")
    scheme = urlsplit(text).scheme.lower() if "://" in text else ""
    if scheme in ("http", "https"):
        return _tarball(text)
    if scheme == "hf":
        return _hub_repo(text, text[len("hf://") :])
    if scheme == "file":
        return _local(Path(unquote(urlsplit(text).path)))
    if scheme:
        raise WeightsMissing(f"weights {text!r} have the scheme {scheme!r}; {_REMEDY}")
    path = Path(text).expanduser()
    if _HUB_ID.fullmatch(text) and not exists(path) and not text.endswith(_ARCHIVE_ENDS):
        return _hub_repo(text, text)
    return _local(path)


_REMEDY = "give the http(s) URL of a tarball, a folder, or a hub id such as org/name@revision"


def _tarball(text: str) -> Tarball:
    url, _, fragment = text.partition("#")
    checksum = _CHECKSUM.fullmatch(fragment)
    if fragment and not checksum:
        raise WeightsMissing(
            f"the weights URL ends in #{fragment!r}; only #sha256=<64 hex digits> is understood"
        )
    if not urlsplit(url).hostname:
        raise WeightsMissing(f"weights {shown(url)!r} name no host; {_REMEDY}")
    return Tarball(url, checksum["digest"].lower() if checksum else None)


def _hub_repo(text: str, repo: str) -> HubRepo:
    match = _HUB_ID.fullmatch(repo)
    if match is None:
        raise WeightsMissing(f"weights {text!r} are no hub id; write org/name or org/name@revision")
    return HubRepo(match["repo"], match["revision"] or "main")


def _local(path: Path) -> Source:
    return LocalArchive(path) if path.name.endswith(_ARCHIVE_ENDS) else LocalFolder(path)


def cache_name(source: Tarball | LocalArchive | HubRepo) -> str:
    """Return the folder name of a copy of *source*: readable, and different for every source."""
    digest = hashlib.sha256(_identity(source).encode()).hexdigest()[:16]
    return f"{readable_name(source)}-{digest}"


def readable_name(source: Tarball | LocalArchive | HubRepo) -> str:
    """Return the name that cog-vllm gave its copy: the folder of `model.tar`, else the file's stem.

    Two sources may share it.
    """
    if isinstance(source, HubRepo):
        return _safe(source.repo_id.replace("/", "--"))
    path = urlsplit(source.url).path if isinstance(source, Tarball) else str(source.path)
    parts = PurePosixPath(unquote(path)).parts
    stem = _without_end(parts[-1]) if parts else ""
    if stem == "model" and len(parts) > 1:
        stem = parts[-2]
    return _safe(stem)


def shown(url: str) -> str:
    """Return *url* without what may be secret: user, password, query and fragment."""
    split = urlsplit(url)
    host = split.hostname or ""
    port = f":{split.port}" if split.port else ""
    return f"{split.scheme}://{host}{port}{split.path}"


def _identity(source: Tarball | LocalArchive | HubRepo) -> str:
    if isinstance(source, Tarball):
        return f"url {source.url} {source.sha256 or ''}"
    if isinstance(source, HubRepo):
        return f"hub {source.repo_id} {source.revision}"
    state = source.path.stat()
    return f"file {source.path.resolve()} {state.st_size} {state.st_mtime_ns}"


def _without_end(name: str) -> str:
    return next((name.removesuffix(end) for end in _ARCHIVE_ENDS if name.endswith(end)), name)


def _safe(name: str) -> str:
    # A leading dot would hide the folder, or climb out of it; 80 keeps it below a file name's 255.
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip(".-")[:80] or "model"
