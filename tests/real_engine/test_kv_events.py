"""What the load balancer knows of real engines' caches is what they find there themselves."""

import json
import re
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from random import Random
from time import sleep

import pytest

from servekit.wire import routes
from tests.real_engine.engine import Engine, EngineSpec
from tests.real_engine.engine_http import load_of, wait_for
from tests.support.programs import program

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(900)]

Start = partial[AbstractContextManager[Engine]]

REQUESTS = 500
BLOCK_TOKENS = 32
# So few blocks that most prompts are evicted again; the CPU build has blocks of 32 at least.
SMALL = ("--block-size", str(BLOCK_TOKENS), "--num-gpu-blocks-override", "128")
_RECEIPT = re.compile(r"exact=(\d+), approximate=(\d+), unknown=(\d+), of=(\d+), tokens=(\d+)")


def spec(folder: Path, name: str) -> EngineSpec:
    config = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"ipc://{folder}/{name}.kv",
        "replay_endpoint": f"ipc://{folder}/{name}.replay",
        "topic": "kv",
    }
    return EngineSpec(args=(*SMALL, "--kv-events-config", json.dumps(config)))


def linked(folder: Path, name: str, engine: Engine) -> str:
    """Let the engine's sockets be found by its port, which is known only now; return that."""
    port = engine.url.rsplit(":", 1)[1]
    for kind in ("kv", "replay"):
        link = folder / f"{port}.{kind}"
        link.unlink(missing_ok=True)
        link.symlink_to(folder / f"{name}.{kind}")
    return port


@pytest.fixture
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kv")


def hits(engines: list[Engine]) -> int:
    return sum(load_of(engine.url).prefix_hits or 0 for engine in engines)


def prompts(rng: Random, number: int) -> Iterator[list[int]]:
    """Yield prompts of token ids: conversations that go on, and new ones."""
    talks: list[list[int]] = []
    # Of less than 512 bytes nothing is asked.
    system = [rng.randrange(10, 200) for _ in range(140)]
    for _ in range(number):
        if not talks or rng.random() < 0.2:
            talks = [*talks[-12:], list(system)]
        talk = rng.choice(talks)
        talk.extend(rng.randrange(10, 200) for _ in range(rng.randrange(5, 60)))
        if len(talk) > 1000:
            talks.remove(talk)
        yield list(talk)


def ask(url: str, model: str, prompt: object) -> tuple[int, int]:
    """Return exactly known and all other blocks, as the receipt has them."""
    body = json.dumps({"model": model, "prompt": prompt, "max_tokens": 1}).encode()
    request = urllib.request.Request(  # noqa: S310
        f"{url}{routes.COMPLETIONS}", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        found = _RECEIPT.match(answer.headers.get("x-servekit-prefix", ""))
    assert found is not None, "the answer has no receipt"
    exact, approximate, unknown, _, _ = map(int, found.groups())
    return exact, approximate + unknown


def test_receipts_agree_with_the_engines_to_the_block(start: Start, sockets: Path) -> None:
    """500 requests over two engines, with eviction."""
    rng, pattern = Random(1), f"ipc://{sockets}/{{port}}"
    with start(spec(sockets, "a")) as one, start(spec(sockets, "b")) as two:
        engines = [one, two]
        for name, engine in zip("ab", engines, strict=True):
            linked(sockets, name, engine)
        arguments = ("--endpoints", f"{one.url},{two.url}", "--port", "0")
        events = ("--kv-events", f"{pattern}.kv", "--kv-events-replay", f"{pattern}.replay")
        with program("loadbalancer.managed", *arguments, *events) as announced:
            # Until an event has told how large a block is, nothing is exact.
            ask(announced["url"], one.model, [11, 12, 13] * 130)
            ask(announced["url"], one.model, [11, 12, 13] * 130)
            sleep(1.0)
            wait_for(lambda: ask(announced["url"], one.model, [14, 15] * 300)[1] == 0)
            sleep(0.5)
            known = guessed = 0
            before = hits(engines)
            for prompt in prompts(rng, REQUESTS):
                exact, other = ask(announced["url"], one.model, prompt)
                known, guessed = known + exact, guessed + other
                # Its events must have come before the next prompt is routed.
                sleep(0.05)

            assert guessed == 0
            assert hits(engines) - before == BLOCK_TOKENS * known
            assert known > REQUESTS
            preempted = sum(load_of(engine.url).preemptions or 0 for engine in engines)
            assert preempted == 0
