"""Models in buckets, from stand-ins that speak the stores' own protocols."""

import base64
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from servekit.errors.tree import WeightsMissing, WeightsRefused
from servekit.secrets.secret import Secret
from servekit.timing.clock import SystemClock
from servekit.weights.buckets import BucketAccess, BucketDownload
from servekit.weights.cache import Cache
from servekit.weights.download import RangedDownload, open_session
from servekit.weights.hub import HubDownload
from servekit.weights.model import Fetchers, ensure_model
from servekit.weights.source import parse_source
from tests.support.model_archive import model_files, tar
from tests.support.web_server import web_server

FILES = {
    **{f"models/llama/{name}": content for name, content in model_files().items()},
    "models/llama/optimizer.pt": b"unused",
    "models/other/config.json": b"{}",
    "packed/model.tar": tar(model_files()),
}


@dataclass(slots=True)
class Store:
    """One bucket, listed in pages of two, by S3's and by Google's protocol.

    Attributes:
        refuse: the status of every answer; 0 answers.
        md5: whether Google's listing has the right hashes.
    """

    url: str = ""
    refuse: int = 0
    md5: bool = True
    authorizations: set[str] = field(default_factory=set)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.authorizations.add(request.headers.get("Authorization", ""))
        if self.refuse:
            return web.Response(status=self.refuse)
        parts = request.path.strip("/").split("/", 1)
        if parts[0] == "bucket":
            return self._list_s3(request) if len(parts) == 1 else _ranged(request, parts[1])
        if request.path.endswith("/o"):
            return self._list_gcs(request)
        return _ranged(request, request.path.removeprefix("/storage/v1/b/bucket/o/"))

    def _page(self, request: web.Request, token: str) -> tuple[list[str], str]:
        keys = sorted(key for key in FILES if key.startswith(request.query.get("prefix", "")))
        start = int(request.query.get(token) or 0)
        return keys[start : start + 2], str(start + 2) if start + 2 < len(keys) else ""

    def _list_s3(self, request: web.Request) -> web.Response:
        keys, more = self._page(request, "continuation-token")
        entries = "".join(
            f"<Contents><Key>{key}</Key><Size>{len(FILES[key])}</Size></Contents>" for key in keys
        )
        more = f"<NextContinuationToken>{more}</NextContinuationToken>" if more else ""
        space = "http://s3.amazonaws.com/doc/2006-03-01/"
        text = f'<ListBucketResult xmlns="{space}">{entries}{more}</ListBucketResult>'
        return web.Response(text=text, content_type="application/xml")

    def _list_gcs(self, request: web.Request) -> web.Response:
        keys, more = self._page(request, "pageToken")
        items = [
            {"name": key, "size": str(len(FILES[key])), "md5Hash": self._md5_of(key)}
            for key in keys
        ]
        return web.json_response({"items": items, **({"nextPageToken": more} if more else {})})

    def _md5_of(self, key: str) -> str:
        content = FILES[key] if self.md5 else b"another"
        return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def _ranged(request: web.Request, key: str) -> web.Response:
    content = FILES.get(key)
    if content is None:
        return web.Response(status=404)
    start, end = (int(edge) for edge in request.headers["Range"].removeprefix("bytes=").split("-"))
    part = content[start : end + 1]
    span = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
    return web.Response(status=206, body=part, headers={"Content-Range": span, "ETag": '"1"'})


@pytest.fixture(name="store")
async def _store() -> AsyncIterator[Store]:
    store = Store()
    app = web.Application()
    app.router.add_get("/{path:.*}", store.answer)
    async with web_server(app) as store.url:
        yield store


def _silent(event: str, **_: object) -> None:
    del event


def _access(store: Store) -> BucketAccess:
    return BucketAccess(
        aws_key_id="AKIDEXAMPLE",
        aws_secret=Secret("canary-secret"),
        aws_endpoint=store.url,
        gcs_token=Secret("canary-token"),
        gcs_endpoint=store.url,
        uses_metadata=False,
    )


async def _ensure(store: Store, source: str, folder: Path) -> Path:
    clock = SystemClock()
    async with open_session() as session:
        download = RangedDownload(session, clock=clock, report=_silent)
        buckets = BucketDownload(_access(store))
        fetchers = Fetchers(download, HubDownload(), buckets)
        cache = Cache(folder, folder)
        return await ensure_model(
            parse_source(source), cache, fetchers, clock=clock, report=_silent
        )


@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.parametrize("path", ["models/llama", "models/llama/", "packed/model.tar"])
async def test_a_model_is_fetched_from_a_bucket(
    store: Store, tmp_path: Path, scheme: str, path: str
) -> None:
    """A folder, over several pages of its listing, and an archive; without our secret."""
    folder = await _ensure(store, f"{scheme}://bucket/{path}", tmp_path)

    names = {one.name for one in folder.iterdir()}
    assert names == {*model_files(), ".complete.json"}
    assert "" not in store.authorizations
    assert not any("canary-secret" in one for one in store.authorizations)


async def test_a_changed_object_is_refused(store: Store, tmp_path: Path) -> None:
    """Google names the hash of every object."""
    store.md5 = False

    with pytest.raises(WeightsRefused, match="was fetched twice"):
        await _ensure(store, "gs://bucket/models/llama", tmp_path)


@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.parametrize(("status", "said"), [(403, "check the rights"), (404, "no bucket")])
async def test_a_refusal_says_what_to_check(
    store: Store, tmp_path: Path, scheme: str, status: int, said: str
) -> None:
    """Without a word of the secrets."""
    store.refuse = status

    with pytest.raises(WeightsMissing, match=said) as refusal:
        await _ensure(store, f"{scheme}://bucket/models/llama", tmp_path)

    assert "canary" not in str(refusal.value)


@pytest.mark.parametrize("scheme", ["s3", "gs"])
async def test_an_empty_folder_is_told(store: Store, tmp_path: Path, scheme: str) -> None:
    """A key that is mistyped lists nothing."""
    with pytest.raises(WeightsMissing, match="holds nothing"):
        await _ensure(store, f"{scheme}://bucket/absent", tmp_path)


def test_a_signature_is_that_of_botocore() -> None:
    """AWS Signature Version 4 of botocore 1.x for this request, key and time."""
    access = BucketAccess("AKIDEXAMPLE", Secret("wJalrXUtnFEMI/K7MDENG"))
    download = BucketDownload(access, now=lambda: 1764331200.0)

    headers = download._sign_s3("https://b.s3.us-east-1.amazonaws.com/a/b.tar")

    assert headers["Authorization"].endswith(
        "Signature=32b1399137bcc2d28ca51857a122908a4132e3becadd707f1ad50e5584333110"
    )
