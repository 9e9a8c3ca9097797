"""Where weights come from, and the name that a copy of them is kept under.  Pure."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from servekit.errors.tree import WeightsMissing
from servekit.secrets.urls import public_url

_HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")
_ARCHIVE_ENDS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tzst")
_CHECKSUM = re.compile(r"sha256=(?P<digest>[0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True)
class Tarball:
    """An archive behind a URL.

    Attributes:
        url: http(s), or gs and s3 of one object; it may hold a password or a signature.
        sha256: what the archive must hash to, in lower case; None where it is not given.
    """

    url: str = field(repr=False)
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


@dataclass(frozen=True, slots=True)
class BucketFolder:
    """A folder of a bucket.

    Attributes:
        prefix: of the keys in it; it ends in a slash, unless it is empty.
    """

    scheme: Literal["gs", "s3"]
    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.prefix}"


Fetched = Tarball | LocalArchive | HubRepo | BucketFolder
Source = Fetched | LocalFolder


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
    if scheme in ("gs", "s3"):
        return _in_bucket("gs" if scheme == "gs" else "s3", text)
    if scheme == "hf":
        return _hub_repo(text, text[len("hf://") :])
    if scheme == "file":
        return _local(Path(unquote(urlsplit(text).path)))
    if scheme:
        raise WeightsMissing(f"weights {public_url(text)!r} have the scheme {scheme!r}; {_REMEDY}")
    path = Path(text).expanduser()
    if _HUB_ID.fullmatch(text) and not exists(path) and not text.endswith(_ARCHIVE_ENDS):
        return _hub_repo(text, text)
    return _local(path)


_REMEDY = (
    "give a hub id such as org/name@revision, a folder, the http(s) URL of a tar, or "
    "gs://bucket/... or s3://bucket/... of a folder or a tar"
)


def _in_bucket(scheme: Literal["gs", "s3"], text: str) -> Source:
    split = urlsplit(text)
    bucket, key = split.netloc.rpartition("@")[2], split.path.lstrip("/")
    if not bucket or ":" in bucket:
        raise WeightsMissing(f"weights {public_url(text)!r} name no bucket; {_REMEDY}")
    if key.endswith(_ARCHIVE_ENDS):
        return _tarball(text)
    return BucketFolder(scheme, bucket, f"{key.rstrip('/')}/" if key.strip("/") else "")


def _tarball(text: str) -> Tarball:
    url, _, fragment = text.partition("#")
    checksum = _CHECKSUM.fullmatch(fragment)
    if fragment and not checksum:
        raise WeightsMissing(
            f"the fragment of weights {public_url(url)!r} is not #sha256=<64 hexadecimal digits>"
        )
    if not _hostname(url):
        raise WeightsMissing(f"weights {public_url(url)!r} name no host; {_REMEDY}")
    return Tarball(url, checksum["digest"].lower() if checksum else None)


def _hostname(url: str) -> str | None:
    try:
        split = urlsplit(url)
        _ = split.port
    except ValueError:
        return None
    return split.hostname


def _hub_repo(text: str, repo: str) -> HubRepo:
    match = _HUB_ID.fullmatch(repo)
    if match is None:
        raise WeightsMissing(
            f"weights {public_url(text)!r} are no hub id; write org/name or org/name@revision"
        )
    return HubRepo(match["repo"], match["revision"] or "main")


def _local(path: Path) -> Source:
    return LocalArchive(path) if path.name.endswith(_ARCHIVE_ENDS) else LocalFolder(path)


def cache_name(source: Fetched) -> str:
    """Return the folder name of a copy of *source*: readable, and different for every content.

    A signature that is renewed, a user and a password change nothing; a sha256 says it all.
    """
    digest = hashlib.sha256(_identity(source).encode()).hexdigest()[:16]
    if isinstance(source, Tarball) and source.sha256:
        return f"model-{source.sha256[:32]}"
    return f"{readable_name(source)}-{digest}"


def former_cache_name(source: Fetched) -> str | None:
    """Return the name that a copy had while a signature was a part of it; None where none was."""
    if not isinstance(source, Tarball):
        return None
    identity = f"url {source.url} {source.sha256 or ''}"
    return f"{readable_name(source)}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def readable_name(source: Fetched) -> str:
    """Return the name that cog-vllm gave its copy: the folder of `model.tar`, else the file's stem.

    Two sources may share it.
    """
    if isinstance(source, HubRepo):
        return _safe(source.repo_id.replace("/", "--"))
    if isinstance(source, BucketFolder):
        return _safe(source.prefix.rstrip("/").rpartition("/")[2] or source.bucket)
    path = urlsplit(source.url).path if isinstance(source, Tarball) else str(source.path)
    parts = PurePosixPath(unquote(path)).parts
    stem = _without_end(parts[-1]) if parts else ""
    if stem == "model" and len(parts) > 1:
        stem = parts[-2]
    return _safe(stem)


def described(source: Source) -> str:
    """Return *source* for people: without user, password and signature."""
    if isinstance(source, Tarball):
        return public_url(source.url)
    if isinstance(source, HubRepo):
        return f"hf://{source.repo_id}@{source.revision}"
    return str(source) if isinstance(source, BucketFolder) else str(source.path)


# What a signed URL carries besides the name of the file, with S3, Google, Azure and CloudFront.
_SIGNATURE = re.compile(
    r"(?i)x-(?:amz|goog)-.*|sig|signature|expires?|key-pair-id|policy|awsaccesskeyid|googleaccessid"
    r"|s[eptkrv]|sks|skv|ske|skt|skoid|sktid|spr|sip|sdd|response-.*|token|access_token|auth.*|hmac"
)


def _identity(source: Fetched) -> str:
    if isinstance(source, Tarball):
        return f"url {_without_signature(source.url)} {source.sha256 or ''}"
    if isinstance(source, HubRepo):
        return f"hub {source.repo_id} {source.revision}"
    if isinstance(source, BucketFolder):
        return f"bucket {source}"
    state = source.path.stat()
    return f"file {source.path.resolve()} {state.st_size} {state.st_mtime_ns}"


def _without_signature(url: str) -> str:
    query = url.partition("?")[2]
    pairs = parse_qsl(query, keep_blank_values=True)
    kept = [(name, value) for name, value in pairs if not _SIGNATURE.fullmatch(name)]
    if len(kept) == len(pairs):
        return f"{public_url(url)}?{query}" if query else public_url(url)
    return f"{public_url(url)}?{urlencode(kept)}" if kept else public_url(url)


def _without_end(name: str) -> str:
    return next((name.removesuffix(end) for end in _ARCHIVE_ENDS if name.endswith(end)), name)


def _safe(name: str) -> str:
    # A leading dot would hide the folder, or climb out of it; 80 keeps it below a file name's 255.
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip(".-")[:80] or "model"
