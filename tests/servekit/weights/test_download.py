"""Downloads from a real server that misbehaves."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from servekit.errors.tree import WeightsMissing, WeightsUnreachable
from servekit.weights.download import RangedDownload
from tests.support.clock import FakeClock
from tests.support.file_server import Fault, FileServer, file_server
from tests.support.waiting import until

CONTENT = random.Random(7).randbytes(100_000)
PART = 10_000


class Run:
    """A server with one file, and the downloads of it."""

    def __init__(self, server: FileServer, session: aiohttp.ClientSession, folder: Path) -> None:
        self.server = server
        self.target = folder / "deep" / "archive"
        self.clock = FakeClock()
        self.events: list[tuple[str, dict[str, object]]] = []
        self._session = session

    async def fetch(self, connections: int = 4, path: str = "/m.tar") -> bytes:
        download = RangedDownload(
            self._session,
            clock=self.clock,
            report=lambda event, **fields: self.events.append((event, fields)),
            connections=connections,
            part_bytes=PART,
        )
        await download(self.server.url + path, self.target)
        return self.target.read_bytes()


@pytest.fixture(name="run")
async def _run(tmp_path: Path) -> AsyncIterator[Run]:
    async with file_server({"/m.tar": CONTENT}) as server, aiohttp.ClientSession() as session:
        yield Run(server, session, tmp_path)


async def test_a_file_is_fetched_in_parts(run: Run) -> None:
    """One look, then every part once."""
    assert await run.fetch() == CONTENT

    ranges = sorted(asked for _, asked in run.server.body_requests)
    assert ranges == sorted(f"bytes={n * PART}-{(n + 1) * PART - 1}" for n in range(10))
    assert len(run.server.requests) == 11


@pytest.mark.parametrize("size", [1, PART - 1, PART, PART + 1])
async def test_every_size_is_fetched(run: Run, size: int) -> None:
    """The last part may be short, and the only one."""
    run.server.files["/m.tar"] = CONTENT[:size]

    assert await run.fetch() == CONTENT[:size]


async def test_a_server_without_ranges_is_read_in_one_stream(run: Run) -> None:
    """A plain server serves too."""
    run.server.ranges = False

    assert await run.fetch() == CONTENT


async def test_a_cut_goes_on_where_it_was_cut(run: Run) -> None:
    """Bytes that came are not asked for again."""
    run.server.faults = [Fault(cut_after=4_000)]

    assert await run.fetch(connections=1) == CONTENT

    assert run.server.body_requests[1] == ("/m.tar", "bytes=4000-9999")


async def test_a_stream_that_is_cut_starts_again(run: Run) -> None:
    """Without ranges there is no going on, and still the file is whole."""
    run.server.ranges = False
    run.server.faults = [Fault(cut_after=4_000), Fault(cut_after=90_000)]

    assert await run.fetch() == CONTENT


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_a_server_that_asks_for_patience_gets_it(run: Run, status: int) -> None:
    """Pauses double; the file arrives."""
    run.server.faults = [Fault(status=status)] * 3

    assert await run.fetch(connections=1) == CONTENT

    assert run.clock.now() == pytest.approx(0.5 + 1.0 + 2.0)


async def test_patience_ends(run: Run) -> None:
    """A server that never recovers is told as such, with the last reason and what to do."""
    run.server.faults = [Fault(status=503)] * 1000

    with pytest.raises(WeightsUnreachable, match=r"6 attempts: status 503; check .* kept"):
        await run.fetch(connections=1)


async def test_progress_renews_patience(run: Run) -> None:
    """A connection that is cut again and again, yet moves, gets there."""
    run.server.faults = [Fault(cut_after=500)] * 30

    assert await run.fetch(connections=1) == CONTENT


@pytest.mark.parametrize(("status", "error"), [(403, WeightsUnreachable), (404, WeightsMissing)])
async def test_a_refusal_is_final(run: Run, status: int, error: type[Exception]) -> None:
    """What will not change by waiting is told at once."""
    run.server.faults = [Fault(status=status)]

    with pytest.raises(error, match=f"answered {status}"):
        await run.fetch(connections=1)

    assert run.clock.now() == 0.0


async def test_a_missing_file_is_told_at_once(run: Run) -> None:
    """The first look is enough."""
    with pytest.raises(WeightsMissing, match=r"/absent\.tar answered 404"):
        await run.fetch(path="/absent.tar")


async def test_nobody_listening_is_told(run: Run) -> None:
    """No connection is no file; the address is in the message, its query is not."""
    run.server.url = "http://127.0.0.1:9"

    with pytest.raises(WeightsUnreachable, match=r"http://127\.0\.0\.1:9/m\.tar could not") as info:
        await run.fetch(path="/m.tar?sig=secret")

    assert "secret" not in str(info.value)


async def test_a_new_process_fetches_only_what_is_missing(run: Run) -> None:
    """What an earlier process brought is kept, and not asked for again."""
    run.server.faults = [Fault()] * 6 + [Fault(status=403)]
    with pytest.raises(WeightsUnreachable):
        await run.fetch(connections=1)
    run.server.faults.clear()
    run.server.requests.clear()

    assert await run.fetch(connections=1) == CONTENT

    assert [asked for _, asked in run.server.body_requests] == [
        f"bytes={n * PART}-{(n + 1) * PART - 1}" for n in range(6, 10)
    ]
    starts = [fields for event, fields in run.events if event == "download starts"]
    assert [fields["resumed_bytes"] for fields in starts] == [0, 6 * PART]


@pytest.mark.parametrize("damage", ["other file", "no etag", "journal"])
async def test_what_cannot_be_trusted_is_fetched_anew(run: Run, damage: str) -> None:
    """Parts of another file, of an unknown file, or of a torn note are not mixed in."""
    run.server.faults = [Fault()] * 6 + [Fault(status=403)]
    with pytest.raises(WeightsUnreachable):
        await run.fetch(connections=1)
    run.server.faults.clear()
    run.target.write_bytes(bytes(len(CONTENT)))
    expected = CONTENT
    match damage:
        case "other file":
            expected = run.server.files["/m.tar"] = CONTENT[::-1]
        case "no etag":
            run.server.etags = False
        case "journal":
            run.target.with_name("archive.parts").write_bytes(b"\0" * 40)

    assert await run.fetch() == expected


async def test_a_file_that_changes_meanwhile_is_fetched_anew(run: Run) -> None:
    """No mixture of two files is ever delivered."""
    changed = CONTENT[::-1]
    run.server.faults = [Fault(), Fault(status=503)]
    sleep = run.clock.sleep

    async def change_then_sleep(seconds: float) -> None:
        run.server.files["/m.tar"] = changed
        await sleep(seconds)

    run.clock.sleep = change_then_sleep  # type: ignore[method-assign]

    assert await run.fetch(connections=1) == changed


async def test_cancelling_leaves_what_came(run: Run) -> None:
    """A process that is told to end keeps the parts for the next one."""
    run.server.faults = [Fault(), Fault(), Fault(), Fault(held=True)]
    task = asyncio.create_task(run.fetch(connections=1))
    await until(lambda: len(run.server.body_requests) == 4)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    run.server.requests.clear()

    assert await run.fetch(connections=1) == CONTENT

    assert len(run.server.body_requests) < 10


async def test_progress_is_reported(run: Run) -> None:
    """A log shows that the download starts, and how it ended."""
    await run.fetch()

    events = dict(run.events)
    assert events["download starts"]["total_bytes"] == len(CONTENT)
    assert events["downloading: done"]["total_bytes"] == len(CONTENT)
