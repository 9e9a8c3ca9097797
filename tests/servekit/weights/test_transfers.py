"""What happens to a download on the way: damage, patience, portals, kills, full volumes."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from servekit.errors.tree import WeightsRefused, WeightsUnreachable
from servekit.timing.clock import SystemClock
from servekit.weights.arrivals import Stopped
from servekit.weights.cache import Cache, choose_cache, evict, put_copy
from servekit.weights.download import RangedDownload, open_session
from servekit.weights.hub import HubDownload
from servekit.weights.lock import try_lock
from servekit.weights.model import Fetchers, NoRoom, ensure_model
from servekit.weights.source import HubRepo, parse_source
from servekit.weights.threads import in_thread
from tests.support.clock import FakeClock
from tests.support.file_server import Fault, FileServer, file_server
from tests.support.hub_server import Hub, hub_server
from tests.support.model_archive import model_files, tar, write_model
from tests.support.waiting import until

REPO = HubRepo("org/name", "v1")


def _silent(event: str, **_: object) -> None:
    del event


@pytest.fixture(name="hub")
async def _hub() -> AsyncIterator[Hub]:
    async with hub_server() as hub:
        yield hub


@pytest.fixture(name="server")
async def _server() -> AsyncIterator[FileServer]:
    async with file_server({"/m/model.tar": tar(model_files())}) as server:
        yield server


async def _ensure(
    source: str,
    cache: Cache,
    hub: Hub | None = None,
    environ: Mapping[str, str] | None = None,
) -> Path:
    clock = SystemClock()
    async with open_session() as session:
        download = RangedDownload(session, clock=clock, report=_silent)
        fetchers = Fetchers.of(download, HubDownload(None, hub.url if hub else None), environ or {})
        parsed = parse_source(source, lambda _: False)
        return await ensure_model(parsed, cache, fetchers, clock=clock, report=_silent)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
async def test_a_flipped_bit_is_fetched_again(hub: Hub, tmp_path: Path, name: str) -> None:
    """The hub names the hash of every file, large and small."""
    hub.flips[name] = 1

    folder = await _ensure("hf://org/name@v1", Cache(tmp_path, tmp_path), hub)

    assert (folder / name).read_bytes() == model_files()[name]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
async def test_a_bit_that_flips_twice_is_refused_and_heals(
    hub: Hub, tmp_path: Path, name: str
) -> None:
    """Nothing damaged is served, and nothing of it is left for the next start."""
    hub.flips[name] = 2
    cache = Cache(tmp_path, tmp_path)

    with pytest.raises(WeightsRefused, match=rf"{name} was fetched twice.* not (sha256|git-sha1):"):
        await _ensure("hf://org/name@v1", cache, hub)

    assert (await _ensure("hf://org/name@v1", cache, hub) / name).read_bytes() == model_files()[
        name
    ]


async def test_a_hub_download_ends_within_a_second(hub: Hub, tmp_path: Path) -> None:
    """A cancelled task, and a thread that is asked to stop."""
    hub.hold = asyncio.Event()
    download = HubDownload(None, hub.url)
    fetch = download.fetch(REPO, tmp_path / "a", clock=SystemClock(), report=_silent)
    task = asyncio.create_task(fetch)
    threaded = asyncio.create_task(in_thread(lambda stop: download(REPO, tmp_path / "b", stop)))
    await until(lambda: sum("/resolve/" in request for request in hub.requests) >= 2)

    began = time.monotonic()
    for one in (task, threaded):
        one.cancel()
        with pytest.raises((asyncio.CancelledError, Stopped)):
            await one

    assert time.monotonic() - began < 1.0
    hub.hold.set()


@pytest.mark.parametrize(
    ("asked", "waited_s"), [("7", 7.0), ("0", 0.5), ("x", 0.5), ("9999", 120.0)]
)
async def test_retry_after_is_heeded_within_a_bound(
    server: FileServer, tmp_path: Path, asked: str, waited_s: float
) -> None:
    """RFC 9110, section 10.2.3."""
    server.faults = [Fault(status=429, headers={"Retry-After": asked})]
    clock = FakeClock()
    async with open_session() as session:
        download = RangedDownload(session, clock=clock, report=_silent)
        await download(f"{server.url}/m/model.tar", tmp_path / "archive")

    assert clock.now() == pytest.approx(waited_s)


async def test_a_captive_portal_is_told_in_one_line(server: FileServer, tmp_path: Path) -> None:
    """A web page instead of a file is nothing to be patient with."""
    server.content_type = "text/html"

    with pytest.raises(WeightsUnreachable, match="captive portal") as refusal:
        await _ensure(f"{server.url}/m/model.tar?sig=canary", Cache(tmp_path, tmp_path))

    assert "\n" not in str(refusal.value)
    assert "canary" not in str(refusal.value)


async def test_a_full_volume_is_refused_before_the_first_byte(
    server: FileServer, tmp_path: Path
) -> None:
    """The size is known from the first look."""
    server.pretend_bytes = 10**15

    with pytest.raises(NoRoom, match=r"GB more than .* has free"):
        await _ensure(f"{server.url}/m/model.tar", Cache(tmp_path, tmp_path))

    assert server.body_requests == []


async def _until_asked(server: FileServer, count: int) -> None:
    await until(lambda: len(server.body_requests) >= count)


def _is_free(lock: Path) -> bool:
    with try_lock(lock) as is_free:
        return is_free


def _copy(cache: Cache, name: str, age_s: float) -> Path:
    folder = put_copy(cache, name, write_model(cache.partial(name)), "x")
    moment = time.time() - age_s
    os.utime(folder / ".complete.json", (moment, moment))
    return folder


@pytest.mark.parametrize(("models", "kept"), [(0, 0), (1, 1), (2, 2), (3, 3), (9, 3)])
def test_the_least_recently_used_go_first(tmp_path: Path, models: int, kept: int) -> None:
    """Until what comes fits into the bound."""
    copies = [_copy(Cache(tmp_path, tmp_path), f"m{n}", age_s=100 * n) for n in range(models)]
    size = sum(len(content) for content in model_files().values())
    cache = Cache(tmp_path, tmp_path, max_bytes=4 * size)

    evict(cache, "new", size, 0)

    assert [copy.exists() for copy in copies] == [n < kept for n in range(models)]


@pytest.mark.parametrize(
    ("missing", "kept"), [(-1, 3), (0, 3), (0.5, 2), (1, 2), (1.5, 1), (3, 0), (3.5, 3)]
)
def test_without_a_bound_the_volume_is_the_bound(tmp_path: Path, missing: float, kept: int) -> None:
    """As many models go as are in the way; none, where all of them would not be enough."""
    copies = [_copy(Cache(tmp_path, tmp_path), f"m{n}", age_s=100 * n) for n in range(3)]
    size = sum(len(content) for content in model_files().values())

    evict(Cache(tmp_path, tmp_path), "new", size, int(missing * size))

    assert [copy.exists() for copy in copies] == [n < kept for n in range(3)]


async def test_the_bound_comes_from_the_environment(server: FileServer, tmp_path: Path) -> None:
    """WEIGHTS_MAX_GB, for whichever program downloads."""
    copies = [_copy(Cache(tmp_path, tmp_path), f"m{n}", age_s=100 * n) for n in range(3)]
    size = sum(len(content) for content in model_files().values())
    gigabytes = (1.5 * size + len(tar(model_files()))) / 1e9

    await _ensure(
        f"{server.url}/m/model.tar",
        Cache(tmp_path, tmp_path),
        environ={"WEIGHTS_MAX_GB": str(gigabytes)},
    )

    assert [copy.exists() for copy in copies] == [True, False, False]


async def test_what_dead_processes_left_is_removed(server: FileServer, tmp_path: Path) -> None:
    """Of other models; a download whose lock is held is alive."""
    cache = Cache(tmp_path, tmp_path)
    (cache.partial("dead") / "files").mkdir(parents=True)
    (cache.partial("alive") / "files").mkdir(parents=True)
    cache.lock("alive").parent.mkdir(parents=True)
    holder = await asyncio.create_subprocess_exec(
        "flock", str(cache.lock("alive")), "sleep", "60", stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await until(lambda: not _is_free(cache.lock("alive")))
        await _ensure(f"{server.url}/m/model.tar", cache)
    finally:
        holder.terminate()
        await holder.wait()

    assert not cache.partial("dead").exists()
    assert cache.partial("alive").exists()


async def test_a_read_only_volume_that_holds_the_model_is_used(
    server: FileServer, tmp_path: Path
) -> None:
    """No request, and nothing written to it."""
    volume, local = tmp_path / "volume", tmp_path / "checkpoints"
    volume.mkdir()
    folder = await _ensure(f"{server.url}/m/model.tar", Cache(volume, volume))
    server.requests.clear()
    cache = Cache(local, local, read_only=volume)

    assert await _ensure(f"{server.url}/m/model.tar?X-Amz-Signature=renewed", cache) == folder
    assert server.requests == []
    assert choose_cache(tmp_path / "absent", local) == Cache(local, local)


@pytest.mark.parametrize("suffix", ["?sig=a", "?X-Amz-Date=1&X-Amz-Signature=b", ""])
async def test_a_renewed_signature_is_the_same_model(
    server: FileServer, tmp_path: Path, suffix: str
) -> None:
    """It costs no download."""
    cache = Cache(tmp_path, tmp_path)
    await _ensure(f"{server.url}/m/model.tar?sig=first", cache)
    server.requests.clear()

    await _ensure(f"{server.url}/m/model.tar{suffix}", cache)

    assert server.requests == []


async def test_a_killed_download_goes_on_to_the_piece(
    server: FileServer, tmp_path: Path, make_archive: Callable[[], bytes]
) -> None:
    """After each interruption only what had not arrived is asked for; the content is whole."""
    content = make_archive()
    server.files["/m/model.tar"] = content
    cache = Cache(tmp_path, tmp_path)
    for cut in range(6):
        server.faults = [Fault(cut_after=3_000_000 + cut)] + [Fault(held=True)] * 50
        task = asyncio.create_task(_ensure(f"{server.url}/m/model.tar", cache))
        asked = len(server.body_requests)
        await _until_asked(server, asked + 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    server.faults = []

    folder = await _ensure(f"{server.url}/m/model.tar", cache)

    assert (folder / "model.safetensors").read_bytes() == model_files()["model.safetensors"]
    assert os.listdir(tmp_path / ".partial") == []  # noqa: PTH208


@pytest.fixture(name="make_archive")
def _make_archive() -> Callable[[], bytes]:
    return lambda: tar({**model_files(), "big.bin.txt": os.urandom(70_000_000)})
