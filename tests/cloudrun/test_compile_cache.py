"""Compile caches as artifacts, in a folder and in a bucket."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
import pytest

from cloudrun.compile_cache import (
    CompileKey,
    Store,
    capture,
    manifests,
    restore,
    write_key,
)
from cloudrun.stores import FolderStore, open_store
from servekit.errors.tree import CacheRefused, SettingInvalid, WeightsUnreachable
from tests.support.loopback import Quiet, http_server

KEY = CompileKey(
    gpu_arch="8.9",
    vllm="0.33.0",
    torch="2.14.0",
    model="/model-cache/x",
    revision="abc",
    flags=("optimization_level=2",),
    variables={"HOME": "/tmp/engine-home"},  # noqa: S108
)
FILES = {"torch_compile_cache/a/graph": b"compiled", "triton/k": b"\x00\x01" * 500}


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Path:
    """A cache that an engine has filled."""
    root = tmp_path / "cache"
    write_key(root, KEY)
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(content)
    (root / "torch_compile_cache/held.lock").write_bytes(b"")
    return root


@pytest.fixture(name="store")
def _store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "kept")


def _contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_what_was_captured_is_put_back(root: Path, store: FolderStore, tmp_path: Path) -> None:
    """Every file of it, Triton's kernels among them; no lock of somebody who is gone."""
    capture(root, store)

    assert restore(tmp_path / "fresh", KEY, store) is not None
    assert _contents(tmp_path / "fresh") == FILES


def test_restore_replaces_what_was_there(root: Path, store: FolderStore) -> None:
    """All of the one or all of the other; never a mixture."""
    capture(root, store)
    (root / "half").write_bytes(b"written by an engine that was killed")

    restore(root, KEY, store)

    assert _contents(root) == FILES
    assert [path.name for path in root.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    "change",
    [
        {"gpu_arch": "9.0"},
        {"vllm": "0.33.1"},
        {"torch": "2.14.1"},
        {"model": "/model-cache/y"},
        {"revision": "abd"},
        {"flags": ("optimization_level=3",)},
        {"variables": {"HOME": "/root"}},
    ],
)
def test_another_engine_finds_nothing(
    root: Path, store: FolderStore, tmp_path: Path, change: dict[str, Any]
) -> None:
    """Each part of the key tells two engines apart."""
    capture(root, store)

    assert restore(tmp_path / "fresh", msgspec.structs.replace(KEY, **change), store) is None
    assert not (tmp_path / "fresh").exists()


def test_cache_under_a_wrong_name_is_refused(
    root: Path, store: FolderStore, tmp_path: Path
) -> None:
    """Somebody copied it; the message says what differs."""
    other = msgspec.structs.replace(KEY, gpu_arch="9.0")
    capture(root, store)
    for end in ("json", "tar.gz"):
        content = store.get(f"{KEY.digest}.{end}")
        assert content is not None
        store.put(f"{other.digest}.{end}", content)

    with pytest.raises(CacheRefused, match=r"gpu_arch: '8\.9' there, '9\.0' here"):
        restore(tmp_path / "fresh", other, store)


def test_damaged_cache_is_refused(root: Path, store: FolderStore, tmp_path: Path) -> None:
    """One byte is enough, and nothing is left of it."""
    capture(root, store)
    archive = tmp_path / "kept" / f"{KEY.digest}.tar.gz"
    content = bytearray(archive.read_bytes())
    content[-1] ^= 1
    archive.write_bytes(bytes(content))

    with pytest.raises(CacheRefused, match="damaged"):
        restore(tmp_path / "fresh", KEY, store)
    assert not (tmp_path / "fresh").exists()


def test_cache_without_a_key_is_not_captured(store: FolderStore, tmp_path: Path) -> None:
    """Nobody knows what it was compiled with."""
    (tmp_path / "cache").mkdir()

    with pytest.raises(CacheRefused, match="does not say what it was compiled with"):
        capture(tmp_path / "cache", store)


def test_empty_cache_is_not_captured(store: FolderStore, tmp_path: Path) -> None:
    """An engine has not been started yet."""
    write_key(tmp_path / "cache", KEY)

    with pytest.raises(CacheRefused, match="holds nothing"):
        capture(tmp_path / "cache", store)


def test_digest_does_not_depend_on_the_order_of_variables() -> None:
    """An environment has none."""
    variables = {"VLLM_B": "2", "HOME": "/h", "CUDA_HOME": "/c"}
    turned = dict(reversed(variables.items()))

    first = msgspec.structs.replace(KEY, variables=variables)
    assert first.digest == msgspec.structs.replace(KEY, variables=turned).digest


@contextmanager
def bucket(status: int = 200) -> Iterator[str]:
    """A stand-in for Cloud Storage's JSON API."""
    objects: dict[str, bytes] = {}

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if path == "/storage/v1/b/caches/o":
                prefix = parse_qs(urlsplit(self.path).query)["prefix"][0]
                items = [{"name": name} for name in objects if name.startswith(prefix)]
                self._send(status, json.dumps({"items": items}).encode())
                return
            name = unquote(path.removeprefix("/storage/v1/b/caches/o/"))
            found = objects.get(name)
            self._send(status if found is not None else max(404, status), found or b"")

        def do_POST(self) -> None:
            name = parse_qs(urlsplit(self.path).query)["name"][0]
            objects[name] = self.rfile.read(int(self.headers["Content-Length"]))
            self._send(status, b"{}")

        def _send(self, code: int, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with http_server(Handler) as url:
        yield url


def _bucket_store(url: str) -> Store:
    return open_store("gs://caches/gemma/l4", {"STORAGE_EMULATOR_HOST": url})


def test_bucket_keeps_what_a_folder_keeps(root: Path, tmp_path: Path) -> None:
    """Captured on one machine, put back on another, and listed."""
    with bucket() as url:
        store = _bucket_store(url)
        assert restore(tmp_path / "fresh", KEY, store) is None
        capture(root, store)

        assert restore(tmp_path / "fresh", KEY, store) is not None
        assert [manifest.key for manifest in manifests(store)] == [KEY]
    assert _contents(tmp_path / "fresh") == FILES


def test_bucket_that_refuses_says_which_role_is_missing(root: Path) -> None:
    """403 is an account without a role."""
    with bucket(403) as url, pytest.raises(WeightsUnreachable, match="objectUser"):
        capture(root, _bucket_store(url))


@pytest.mark.parametrize("text", ["", "s3://bucket/x", "gs://", "https://host/x"])
def test_other_places_are_refused(text: str) -> None:
    """A folder, or a bucket of Google's."""
    with pytest.raises(SettingInvalid):
        open_store(text, {})
