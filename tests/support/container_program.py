"""A serving program of ours as a process on this machine, with a fake engine below it."""

import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from servekit.launch.keeper import die_with_parent
from tests.support import fake_vllm
from tests.support.model_archive import write_model

ENGINE = Path(str(fake_vllm.__file__))
MODEL = "acme/tiny-1b"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

# The fake engine's own pages, which no front passes on by itself.
EXTRA_ROUTES = "GET /environment, GET /arguments, GET /prompts, POST /die"

STREAM = {"model": MODEL, "prompt": "hi", "stream": True, "max_tokens": 30}

# Far more than any start of the fake engine takes, on a machine that is busy with other tests.
PATIENCE_S = 30.0


def write_snapshot(hf_home: Path, name: str = MODEL, commit: str = COMMIT) -> Path:
    """Write a model into the hub's cache, as the hub's library leaves it."""
    repo = hf_home / "hub" / ("models--" + name.replace("/", "--"))
    config = {"model_type": "gemma3_text", "max_position_embeddings": 2048, "vocab_size": 1024}
    folder = write_model(repo / "snapshots" / commit)
    (folder / "config.json").write_text(json.dumps(config))
    (repo / "refs").mkdir(exist_ok=True)
    (repo / "refs" / "main").write_text(commit)
    return folder


@dataclass
class Container:
    """A running program.

    Attributes:
        events: what it announced on stdout.
        printed: everything on stdout, line by line.
        patience_s: for how long each of the methods waits.
        log: what it wrote to stderr.
    """

    process: asyncio.subprocess.Process
    folder: Path
    patience_s: float = PATIENCE_S
    events: list[dict[str, object]] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)
    _readers: list["asyncio.Task[None]"] = field(default_factory=list)

    def watch(self) -> None:
        self._readers = [
            asyncio.create_task(self._read(self.process.stdout, self._take_event)),
            asyncio.create_task(self._read(self.process.stderr, self.log.append)),
        ]

    async def announced(self, event: str) -> dict[str, object]:
        """Return the announcement of *event* once it is made."""
        async with asyncio.timeout(self.patience_s), self._news:
            await self._news.wait_for(lambda: self._find(event) is not None)
        found = self._find(event)
        assert found is not None
        return found

    async def logged(self, pattern: str) -> str:
        """Return the first log line in which *pattern* is found, once it is written."""
        async with asyncio.timeout(self.patience_s), self._news:
            await self._news.wait_for(lambda: self._search(pattern) is not None)
        found = self._search(pattern)
        assert found is not None
        return found

    async def port(self) -> int:
        """Return its port once it listens: long before it is ready."""
        url = str((await self.announced("listening"))["url"])
        return int(url.rpartition(":")[2])

    async def url(self) -> str:
        """Return its address once it is ready."""
        await self.announced("ready")
        return f"http://127.0.0.1:{await self.port()}"

    async def get(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of its answer, which may be that it is not ready."""
        url = f"http://127.0.0.1:{await self.port()}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status, dict(answer.headers), await answer.read()

    async def json(self, path: str) -> Any:
        """Return what its answer says."""
        return json.loads((await self.get(path))[2])

    async def stream(self, began: Callable[[], object] = lambda: None) -> bytes:
        """Return a whole stream of completions; *began* is called at its first line."""
        url = f"http://127.0.0.1:{await self.port()}/v1/completions"
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json=STREAM) as answer,
        ):
            first = await answer.content.readline()
            began()
            return first + await answer.read()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        """Return its exit code, with everything it wrote read."""
        async with asyncio.timeout(self.patience_s):
            code = await self.process.wait()
            await asyncio.gather(*self._readers)
        return code

    async def refused(self) -> str:
        """Return the one line with which it refuses what was set: exit code 2, no traceback."""
        assert await self.ended() == 2
        assert not any("Traceback" in line for line in self.log)
        return self.log[-1]

    def _find(self, event: str) -> dict[str, object] | None:
        return next((told for told in self.events if told["event"] == event), None)

    def _search(self, pattern: str) -> str | None:
        return next((line for line in self.log if re.search(pattern, line)), None)

    def _take_event(self, line: str) -> None:
        self.printed.append(line)
        if line.startswith("{"):
            self.events.append(json.loads(line))

    async def _read(self, stream, take) -> None:  # type: ignore[no-untyped-def]
        async for line in stream:
            async with self._news:
                take(line.decode().rstrip("\n"))
                self._news.notify_all()


@asynccontextmanager
async def running_program(
    module: str,
    *args: str,
    folder: Path,
    environ: Mapping[str, str],
    patience_s: float = PATIENCE_S,
) -> AsyncIterator[Container]:
    """Start `python -m MODULE ARGS` with exactly *environ*; end it if the test has not."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *args),
        env=dict(environ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=2**20,
        preexec_fn=die_with_parent,
    )
    running = Container(process, folder, patience_s)
    running.watch()
    try:
        yield running
    finally:
        await _end(process)
        await running.ended()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ask it to end, so that its engine ends too; make it, where it will not."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(10):
            await process.wait()
    except TimeoutError:
        process.kill()
