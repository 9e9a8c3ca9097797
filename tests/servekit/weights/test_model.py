"""Bringing a model to this machine, at most once."""

import asyncio
import hashlib
import os
import sys
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from servekit.errors.tree import (
    ServeError,
    SettingInvalid,
    WeightsMissing,
    WeightsRefused,
    WeightsUnreachable,
)
from servekit.timing.clock import SystemClock
from servekit.weights.cache import Cache
from servekit.weights.download import RangedDownload
from servekit.weights.model import Fetchers, ensure_model
from servekit.weights.pget import PgetDownload
from servekit.weights.source import HubRepo, parse_source
from tests.support.clock import FakeClock
from tests.support.file_server import Fault, FileServer, file_server
from tests.support.model_archive import model_files, tar, tar_of, write_model
from tests.support.python_program import python_program
from tests.support.waiting import until

ARCHIVE = tar(model_files())


class _NoHub:
    async def fetch(self, repo: HubRepo, folder: Path, **_: object) -> None:
        raise AssertionError(f"{repo} was fetched into {folder}")


class Run:
    """A server with an archive, and a machine that wants the model in it."""

    def __init__(self, server: FileServer, session: aiohttp.ClientSession, folder: Path) -> None:
        self.server = server
        self.session = session
        self.cache = Cache(folder / "checkpoints", folder / "checkpoints")
        self.events: list[str] = []

    async def ensure(self, weights: str = "", max_bytes: int = 10**9) -> Path:
        clock = FakeClock()
        download = RangedDownload(
            self.session, clock=clock, report=self.report, connections=2, part_bytes=4096
        )
        return await ensure_model(
            parse_source(weights or f"{self.server.url}/m/model.tar"),
            self.cache,
            Fetchers(download, _NoHub()),
            clock=clock,
            report=self.report,
            max_bytes=max_bytes,
        )

    def report(self, event: str, **_fields: object) -> None:
        self.events.append(event)

    def left(self) -> list[str]:
        """Whatever lies in the cache but lock files and the folders that we make."""
        ours = {".partial", ".locks"}
        found = self.cache.store.rglob("*") if self.cache.store.exists() else []
        parts = [path.relative_to(self.cache.store) for path in found]
        return sorted(str(p) for p in parts if p.parts[0] != ".locks" and str(p) not in ours)


@pytest.fixture(name="run")
async def _run(tmp_path: Path) -> AsyncIterator[Run]:
    async with (
        file_server({"/m/model.tar": ARCHIVE}) as server,
        aiohttp.ClientSession() as session,
    ):
        yield Run(server, session, tmp_path)


async def test_a_model_is_downloaded_and_unpacked(run: Run) -> None:
    """The folder that comes back holds the model, and nothing else is left behind."""
    folder = await run.ensure()

    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}
    assert files == model_files()
    assert folder.parent == run.cache.checkpoints
    assert not list((run.cache.store / ".partial").iterdir())


async def test_a_second_start_makes_no_request_at_all(run: Run) -> None:
    """Never downloaded twice; not even a look."""
    first = await run.ensure()
    run.server.requests.clear()

    second = await run.ensure()

    assert second == first
    assert run.server.requests == []


async def test_a_second_start_needs_no_server(run: Run) -> None:
    """A copy serves when the network is gone."""
    first = await run.ensure()
    run.server.files.clear()

    assert await run.ensure() == first


async def test_a_copy_that_lost_a_file_is_fetched_again(run: Run) -> None:
    """Never twice does not mean never again: half a model is no model."""
    (await run.ensure() / "model.safetensors").unlink()

    assert (await run.ensure() / "model.safetensors").exists()


async def test_another_url_is_another_model(run: Run) -> None:
    """A changed archive under another URL is served, never the earlier one of the same name."""
    changed = model_files(b"abcdefgh")
    run.server.files["/v2/m/model.tar"] = tar(changed)
    first = await run.ensure()

    second = await run.ensure(f"{run.server.url}/v2/m/model.tar")

    assert second != first
    assert (second / "model.safetensors").read_bytes() == changed["model.safetensors"]


async def test_a_cut_download_goes_on(run: Run) -> None:
    """A broken connection costs a request, not the model."""
    run.server.faults = [Fault(cut_after=3_000)]

    assert (await run.ensure() / "config.json").exists()


async def test_a_download_that_failed_goes_on_at_the_next_start(run: Run) -> None:
    """The next process asks for the parts that the last one did not bring."""
    run.server.faults = [Fault(), Fault(), Fault(status=403)]
    with pytest.raises(WeightsUnreachable):
        await run.ensure()
    before = len(run.server.body_requests)
    run.server.faults.clear()

    await run.ensure()

    parts = -(-len(ARCHIVE) // 4096)
    assert len(run.server.body_requests) - before < parts


async def test_a_model_one_folder_down_is_found(run: Run) -> None:
    """An archive of the folder is as good as one of the files."""
    run.server.files["/m/model.tar"] = tar(
        {f"Qwen3/{name}": content for name, content in model_files().items()}
    )

    assert (await run.ensure() / "config.json").exists()


def _link() -> tarfile.TarInfo:
    member = tarfile.TarInfo("config.json")
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return member


@pytest.mark.parametrize(
    "content",
    [
        ARCHIVE[:1_500],
        ARCHIVE[:2_048],
        tar(model_files(), "w:gz")[:-30],
        tar({"../outside": b"x", **model_files()}),
        tar_of(_link()),
        tar({**model_files(), ".complete.json": b"{}"}),
        tar({"readme.md": b"no model"}),
        tar({"config.json": b"{}"}),
        b"<html>not found</html>",
    ],
    ids=[
        "cut",
        "cut before its end",
        "cut gzip",
        "escape",
        "link",
        "marker",
        "no model",
        "no weights",
        "html",
    ],
)
async def test_a_bad_archive_is_refused_and_leaves_nothing(run: Run, content: bytes) -> None:
    """Neither a copy nor a part of one stays; the next start begins afresh."""
    run.server.files["/m/model.tar"] = content

    with pytest.raises(WeightsRefused):
        await run.ensure()

    assert run.left() == []
    run.server.files["/m/model.tar"] = ARCHIVE
    assert (await run.ensure() / "config.json").exists()


async def test_an_archive_beyond_the_limit_is_refused_and_leaves_nothing(run: Run) -> None:
    """The limit holds for what an archive unpacks to."""
    with pytest.raises(WeightsRefused, match="20 bytes"):
        await run.ensure(max_bytes=20)

    assert run.left() == []


async def test_a_checksum_in_the_url_is_held(run: Run) -> None:
    """Whoever says what the archive must be gets that, or nothing."""
    url = f"{run.server.url}/m/model.tar#sha256="

    assert await run.ensure(url + hashlib.sha256(ARCHIVE).hexdigest())
    with pytest.raises(WeightsRefused, match="sha256"):
        await run.ensure(url + "0" * 64)


async def test_two_starts_at_once_download_once(run: Run) -> None:
    """The second waits for the first, and finds its copy."""
    folders = await asyncio.gather(run.ensure(), run.ensure(), run.ensure())

    assert len(set(folders)) == 1
    assert len(run.server.requests) == 1 + -(-len(ARCHIVE) // 4096)
    assert "waiting for another process" in run.events


PROCESS = """
import asyncio, sys
from pathlib import Path
import aiohttp
from servekit.timing.clock import SystemClock
from servekit.weights.cache import Cache
from servekit.weights.download import RangedDownload
from servekit.weights.model import Fetchers, ensure_model
from servekit.weights.source import parse_source

async def main(url, folder):
    clock, report = SystemClock(), lambda event, **fields: None
    async with aiohttp.ClientSession() as session:
        download = RangedDownload(session, clock=clock, report=report, part_bytes=4096)
        cache = Cache(Path(folder), Path(folder))
        fetchers = Fetchers(download, None)
        print(await ensure_model(parse_source(url), cache, fetchers, clock=clock, report=report))

asyncio.run(main(*sys.argv[1:]))
"""


async def _process(run: Run) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROCESS,
        f"{run.server.url}/m/model.tar",
        str(run.cache.store),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=asyncio.subprocess.PIPE,
    )


async def test_two_processes_at_once_download_once(run: Run) -> None:
    """Two real processes that start together: one download, one copy, and both have it."""
    processes = [await _process(run) for _ in range(2)]

    outputs = [(await process.communicate())[0] for process in processes]

    assert [process.returncode for process in processes] == [0, 0]
    assert len(set(outputs)) == 1
    assert len(run.server.requests) == 1 + -(-len(ARCHIVE) // 4096)


async def test_a_process_that_was_killed_does_not_hold_the_lock(run: Run) -> None:
    """The next start takes over from a dead one."""
    run.server.faults = [Fault(status=503)] * 1000
    process = await _process(run)
    await until(lambda: run.server.body_requests)
    process.kill()
    await process.wait()
    run.server.faults.clear()

    assert (await run.ensure() / "config.json").exists()


async def test_a_local_folder_is_used_as_it_is(run: Run, tmp_path: Path) -> None:
    """No copy, no marker, no request."""
    model = write_model(tmp_path / "mine")
    before = sorted(model.iterdir())

    assert await run.ensure(str(model)) == model
    assert sorted(model.iterdir()) == before
    assert run.server.requests == []


@pytest.mark.parametrize("what", ["absent", "file", "empty", "absent tar"])
async def test_a_path_without_a_model_is_told(run: Run, tmp_path: Path, what: str) -> None:
    """The message names the path, and what is wrong with it."""
    path = tmp_path / ("mine.tar" if "tar" in what else "mine")
    if what == "file":
        path.write_text("x")
    if what == "empty":
        path.mkdir()

    with pytest.raises(WeightsMissing, match="mine"):
        await run.ensure(str(path))


async def test_a_local_archive_is_unpacked_once(run: Run, tmp_path: Path) -> None:
    """What `train` packed can be served from the disk, and the archive stays."""
    archive = tmp_path / "model.tar"
    archive.write_bytes(ARCHIVE)

    first = await run.ensure(str(archive))

    assert await run.ensure(str(archive)) == first
    assert archive.read_bytes() == ARCHIVE


async def test_a_model_placed_by_hand_is_used(run: Run) -> None:
    """./checkpoints/<model>, filled by hand, still serves; the log says so."""
    placed = write_model(run.cache.checkpoints / "m")

    assert await run.ensure() == placed
    assert run.server.requests == []
    assert any("placed by hand" in event for event in run.events)


async def test_a_volume_keeps_the_copy_and_checkpoints_a_link(run: Run, tmp_path: Path) -> None:
    """A second machine with the volume, and without the links, makes no request."""
    run.cache = Cache(tmp_path / "weights", tmp_path / "checkpoints")
    (tmp_path / "weights").mkdir()
    first = await run.ensure()
    run.server.requests.clear()
    run.cache = Cache(tmp_path / "weights", tmp_path / "other" / "checkpoints")

    second = await run.ensure()

    assert first.is_symlink()
    assert second.is_symlink()
    assert first.resolve() == second.resolve()
    assert run.server.requests == []


async def test_a_link_to_a_volume_that_is_gone_is_cleaned(run: Run, tmp_path: Path) -> None:
    """A dangling link is removed, and the model fetched to where it can be."""
    run.cache = Cache(tmp_path / "weights", tmp_path / "checkpoints")
    (tmp_path / "weights").mkdir()
    await run.ensure()
    (tmp_path / "weights").rename(tmp_path / "unmounted")
    run.cache = Cache(tmp_path / "checkpoints", tmp_path / "checkpoints")

    folder = await run.ensure()

    assert not folder.is_symlink()
    assert (folder / "config.json").exists()


async def test_a_hub_repository_is_fetched_once(run: Run) -> None:
    """A hub id is kept as an archive is: verified, and never fetched twice."""
    fetched: list[HubRepo] = []

    class _Hub:
        async def fetch(self, repo: HubRepo, folder: Path, **_: object) -> None:
            fetched.append(repo)
            write_model(folder)
            (folder / ".cache").mkdir()

    folders = [
        await ensure_model(
            HubRepo("org/name", "v1"),
            run.cache,
            Fetchers(PgetDownload("never"), _Hub()),
            clock=FakeClock(),
            report=run.report,
        )
        for _ in range(2)
    ]

    assert fetched == [HubRepo("org/name", "v1")]
    assert folders[0] == folders[1]
    assert sorted(path.name for path in folders[0].iterdir()) == [
        ".complete.json",
        "config.json",
        "model.safetensors",
    ]


async def test_a_cancelled_fetch_ends_before_it_lets_go(run: Run) -> None:
    """Nothing writes any more once the lock is free, and the next start gets the model."""
    big = tar({**model_files(), "notes.txt": os.urandom(20_000_000)})
    (run.cache.store).mkdir(parents=True)
    archive = run.cache.store.parent / "model.tar"
    archive.write_bytes(big)
    task = asyncio.create_task(run.ensure(str(archive)))
    await until(lambda: list(run.cache.store.glob(".partial/*/files/*")))
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

    assert (await run.ensure(str(archive)) / "config.json").exists()


def _pget(folder: Path, script: str) -> str:
    """A program that takes pget's arguments, and notes them."""
    return python_program(folder / "pget", f"import sys, urllib.request\n{script}")


async def test_pget_downloads_where_it_is_installed(run: Run, tmp_path: Path) -> None:
    """pget brings the archive; it never unpacks it."""
    program = _pget(
        tmp_path,
        "force, url, path = sys.argv[1:]\nassert force == '--force'\n"
        "open(path, 'wb').write(urllib.request.urlopen(url).read())",
    )

    folder = await ensure_model(
        parse_source(f"{run.server.url}/m/model.tar"),
        run.cache,
        Fetchers(PgetDownload(program), _NoHub()),
        clock=SystemClock(),
        report=run.report,
    )

    assert (folder / "config.json").exists()
    assert run.server.requests == [("/m/model.tar", "")]


async def test_pget_that_fails_is_told(run: Run, tmp_path: Path) -> None:
    """Its status is in the message; the URL's signature is not."""
    program = _pget(tmp_path, "sys.exit(3)")

    with pytest.raises(WeightsUnreachable, match="pget ended with 3") as info:
        await PgetDownload(program)(f"{run.server.url}/m.tar?sig=secret", tmp_path / "archive")

    assert "secret" not in str(info.value)
    assert isinstance(info.value, ServeError)


async def test_pget_is_stopped_when_we_are(tmp_path: Path) -> None:
    """No download goes on behind a process that was told to end."""
    program = _pget(
        tmp_path,
        f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "time.sleep(60)",
    )
    task = asyncio.create_task(PgetDownload(program)("http://127.0.0.1:9/m", tmp_path / "archive"))
    await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("value", "allowed"), [("1", True), ("true", True), ("0", False), ("", False)]
)
def test_pickles_are_allowed_by_the_environment(value: str, allowed: bool) -> None:
    """Also where no settings type reads it: in Cog and on Modal."""
    download = PgetDownload("pget")

    assert Fetchers.of(download, _NoHub(), {"ALLOW_PICKLE": value}).allow_pickle is allowed
    assert Fetchers.of(download, _NoHub(), {}).allow_pickle is False


@pytest.mark.parametrize(
    ("name", "value"),
    [("ALLOW_PICKLE", "perhaps"), ("WEIGHTS_MAX_GB", "-1"), ("WEIGHTS_MAX_GB", "much")],
)
def test_a_setting_that_cannot_be_used_is_refused(name: str, value: str) -> None:
    """And not taken for the default."""
    with pytest.raises(SettingInvalid, match=f"{name} is .*{value}"):
        Fetchers.of(PgetDownload("pget"), _NoHub(), {name: value})
