"""A compile cache as an artifact: kept by what it was made with, put back whole or not at all."""

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from servekit.errors.tree import CacheRefused

# Lies in the cache while an engine runs: what the cache must be kept under.
KEY_FILE = ".servekit-compile-key.json"


class CompileKey(msgspec.Struct, frozen=True):
    """Everything that must be the same for a compile cache to be of use.

    Attributes:
        gpu_arch: compute capability, such as 8.9.
        model: the folder that the engine is given; its path is part of vLLM's own key.
        revision: the model's commit.
        flags: the engine's arguments that decide what is compiled.
        variables: likewise, of its environment.
    """

    gpu_arch: str
    vllm: str
    torch: str
    model: str
    revision: str
    flags: tuple[str, ...]
    variables: dict[str, str]

    @property
    def digest(self) -> str:
        return hashlib.sha256(_encode(self)).hexdigest()[:24]

    def differences(self, other: "CompileKey") -> list[str]:
        """Return one line for each field in which *other* is not the same."""
        return [
            f"{name}: {getattr(other, name)!r} there, {getattr(self, name)!r} here"
            for name in self.__struct_fields__
            if getattr(self, name) != getattr(other, name)
        ]


class Manifest(msgspec.Struct, frozen=True):
    """What lies beside a packed cache.

    Attributes:
        sha256: of the archive.
        files: how many it holds.
        size: bytes of them, unpacked.
    """

    key: CompileKey
    sha256: str
    files: int
    size: int


class Store(Protocol):
    """Named blobs, somewhere.  Blocks."""

    def get(self, name: str) -> bytes | None:
        """Return the blob, or None where there is none of this name."""

    def put(self, name: str, content: bytes) -> None:
        """Keep the blob, replacing one of this name."""

    def names(self) -> tuple[str, ...]:
        """Return what is there, as far as the store can tell."""


_encode = msgspec.json.Encoder(order="deterministic").encode


def write_key(root: Path, key: CompileKey) -> None:
    """Note in *root* what the engine that fills it runs with."""
    root.mkdir(parents=True, exist_ok=True)
    (root / KEY_FILE).write_bytes(_encode(key))


def read_key(root: Path) -> CompileKey:
    """Return what *root* was filled with.

    Raises:
        CacheRefused: nobody noted it.
    """
    try:
        return msgspec.json.decode((root / KEY_FILE).read_bytes(), type=CompileKey)
    except (OSError, msgspec.MsgspecError) as error:
        raise CacheRefused(
            f"{root} does not say what it was compiled with; capture it where `cloudrun serve` "
            "has run"
        ) from error


def capture(root: Path, store: Store) -> Manifest:
    """Keep the cache in *root* under the key that lies in it.

    Raises:
        CacheRefused: it has no key, or holds nothing.
    """
    key = read_key(root)
    files = sorted(_files(root))
    if not files:
        raise CacheRefused(f"{root} holds nothing; start the engine first")
    content = _pack(root, files)
    manifest = Manifest(
        key=key,
        sha256=hashlib.sha256(content).hexdigest(),
        files=len(files),
        size=sum((root / file).stat().st_size for file in files),
    )
    # The archive first: whoever sees the manifest may count on it.
    store.put(f"{key.digest}.tar.gz", content)
    store.put(f"{key.digest}.json", _encode(manifest))
    return manifest


def restore(root: Path, key: CompileKey, store: Store) -> Manifest | None:
    """Put the cache for *key* into *root*; None where the store has none for it.

    *root* is replaced in one step: an engine finds all of it, or what was there before.

    Raises:
        CacheRefused: what the store has under this key was made with another, or is damaged.
    """
    described = store.get(f"{key.digest}.json")
    content = store.get(f"{key.digest}.tar.gz") if described is not None else None
    if described is None or content is None:
        return None
    manifest = read_manifest(described)
    if manifest.key != key:
        raise CacheRefused(
            f"the compile cache is not for this engine: {'; '.join(key.differences(manifest.key))}"
        )
    if hashlib.sha256(content).hexdigest() != manifest.sha256:
        raise CacheRefused("the compile cache is damaged: its hash is not the manifest's")
    _unpack(root, content)
    return manifest


def read_manifest(content: bytes) -> Manifest:
    """Return the manifest in *content*.

    Raises:
        CacheRefused: it is none.
    """
    try:
        return msgspec.json.decode(content, type=Manifest)
    except msgspec.MsgspecError as error:
        raise CacheRefused(f"the compile cache's manifest cannot be read: {error}") from error


def manifests(store: Store) -> list[Manifest]:
    """Return what *store* keeps."""
    found = [store.get(name) for name in store.names() if name.endswith(".json")]
    return [read_manifest(content) for content in found if content is not None]


def _files(root: Path) -> Iterator[str]:
    for path in root.rglob("*"):
        name = path.relative_to(root)
        # A lock is somebody's who is gone.
        kept = path.is_file() and not path.is_symlink() and path.suffix != ".lock"
        if kept and str(name) != KEY_FILE:
            yield str(name)


def _pack(root: Path, files: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=6) as archive:
        for file in files:
            archive.add(root / file, arcname=file, recursive=False)
    return buffer.getvalue()


def _unpack(root: Path, content: bytes) -> None:
    fresh = root.with_name(f".{root.name}.{os.getpid()}")
    old = root.with_name(f".{root.name}.{os.getpid()}.old")
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            archive.extractall(fresh, filter="data")
        if root.exists():
            root.rename(old)
        fresh.rename(root)
    except (OSError, tarfile.TarError) as error:
        raise CacheRefused(f"the compile cache could not be unpacked: {error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
