"""The program itself: ports, workers, signals and files, as an operator has them."""

import asyncio
import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.loadbalancer.engine import Engine, post, serving, talk
from tests.loadbalancer.started import Started, command, started
from tests.support.waiting import until

ENDED = re.compile(rb'servekit_lb_requests_total\{outcome="done",[^}]*\} ([0-9.]+)')


async def get(port: int, path: str) -> bytes:
    ask = f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    return await talk(port, ask.encode())


async def ended(balancer: Started) -> int:
    """Return how many requests /metrics says were answered."""
    found = ENDED.findall(await get(balancer.admin_port, "/metrics"))
    return sum(int(float(count)) for count in found)


async def answered_everywhere(balancer: Started, count: int) -> None:
    """Return once both workers say that *count* requests were answered.

    Who is asked is up to the kernel: both have been, but for once in two thousand times.
    """
    in_a_row = 0
    async with asyncio.timeout(30.0):
        while in_a_row < 12:
            in_a_row = in_a_row + 1 if await ended(balancer) == count else 0
            await asyncio.sleep(0.01)


def fleet_text(*urls: str) -> str:
    lines = ["models:", "  - {name: m, short_name: m}", "replicas:"]
    for number, url in enumerate(urls):
        port = url.rpartition(":")[2]
        lines.append(f"  - {{name: r{port}, model: m, gpus: [{number}], port: {port}}}")
    return "\n".join(lines) + "\n"


async def load(port: int, stop: asyncio.Event) -> list[bytes]:
    """Send requests, eight at a time, until *stop*; return every answer."""

    async def one_after_the_other() -> list[bytes]:
        answers = []
        while not stop.is_set():
            answers.append(await post(port))
        return answers

    clients = await asyncio.gather(*(one_after_the_other() for _ in range(8)))
    return [answer for answers in clients for answer in answers]


async def test_admin_has_a_port_of_its_own() -> None:
    """What is asked there is not answered beside the requests, and the other way round."""
    async with (
        serving(Engine()) as urls,
        started("--endpoints", ",".join(urls), "--admin-port", "0") as balancer,
    ):
        served = await post(balancer.port)
        here = [await get(balancer.port, path) for path in ("/metrics", "/status", "/replicas")]
        there = [await get(balancer.admin_port, p) for p in ("/metrics", "/status", "/replicas")]
        relayed = await post(balancer.admin_port)
        beside = await talk(balancer.admin_port, b"POST /tokenize HTTP/1.1\r\nhost: x\r\n\r\n")
        health = await get(balancer.port, "/health")

    assert served.startswith(b"HTTP/1.1 200")
    assert health.startswith(b"HTTP/1.1 200")
    assert all(answer.startswith(b"HTTP/1.1 404") for answer in [*here, relayed, beside])
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in there)


async def test_workers_answer_as_one() -> None:
    """Whoever is asked tells what all have seen; one that is killed is replaced, and what it had
    counted is not lost."""
    async with (
        serving(Engine(), Engine()) as urls,
        started("--endpoints", ",".join(urls), "--admin-port", "0", "--workers", "2") as balancer,
    ):
        await asyncio.gather(*(post(balancer.port) for _ in range(40)))
        await answered_everywhere(balancer, 40)
        decisions = json.loads((await get(balancer.admin_port, "/decisions")).split(b"\r\n\r\n")[1])
        before = balancer.workers()
        os.kill(min(before), signal.SIGKILL)
        await until(lambda: len(balancer.workers() - before) == 1)
        kept = await ended(balancer)
        answers = [await post(balancer.port) for _ in range(10)]
        await answered_everywhere(balancer, 50)
        replicas = json.loads((await get(balancer.admin_port, "/replicas")).split(b"\r\n\r\n")[1])

    assert len(decisions) == 40
    assert len(before) == 2
    assert kept == 40
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    assert [replica["in_flight"] for replica in replicas] == [0, 0]


async def test_fleet_file_is_read_again_under_load(tmp_path: Path) -> None:
    """On SIGHUP and on change; one that is not valid changes nothing; no request is lost."""
    old, new = Engine(), Engine()
    file = tmp_path / "fleet.yaml"
    stop = asyncio.Event()
    async with serving(old, new) as urls:
        file.write_text(fleet_text(urls[0]))
        async with started("--fleet", str(file)) as balancer:
            loading = asyncio.create_task(load(balancer.port, stop))
            await until(lambda: len(old.bodies) > 50)
            file.write_text("replicas: nonsense\n")
            balancer.send(signal.SIGHUP)
            seen = len(old.bodies)
            await until(lambda: len(old.bodies) > seen + 100)
            untouched = not new.bodies
            file.write_text(fleet_text(urls[1]))
            balancer.send(signal.SIGHUP)
            await until(lambda: len(new.bodies) > 50)
            file.write_text(fleet_text(*urls))
            seen = len(old.bodies)
            await until(lambda: len(old.bodies) > seen + 50)
            stop.set()
            answers = await loading

    assert untouched
    assert {answer[:12] for answer in answers} == {b"HTTP/1.1 200"}


async def test_sigterm_lets_streams_finish() -> None:
    """Whoever was let in gets the whole answer, from every worker."""
    engine = Engine("stream", events=2000)
    async with (
        serving(engine) as urls,
        started("--endpoints", ",".join(urls), "--workers", "2") as balancer,
    ):
        streams = [asyncio.create_task(post(balancer.port)) for _ in range(8)]
        await until(lambda: len(engine.bodies) == 8)
        balancer.send(signal.SIGTERM)
        answers = await asyncio.gather(*streams)
        async with asyncio.timeout(30.0):
            code = await balancer.process.wait()

    assert all(b"[DONE]" in answer for answer in answers)
    assert code == 0


FLEET = """
models: [{name: m, short_name: m, policy: best}]
replicas: [{name: r, model: m, gpus: [0], port: 1}]
"""
TWICE = "http://127.0.0.1:1,http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--fleet", "none.yaml"), b"error: fleet "),
        (("--fleet", "fleet.yaml"), b"error: model 'm': policy 'best' is unknown"),
        (("--endpoints", TWICE), b"error: duplicate endpoint '127.0.0.1:1'"),
        (("--policy", "best"), b"error: policy 'best' is unknown"),
        (("--shadow", "best"), b"error: policy 'best' is unknown"),
        (("--shadow", "best", "--endpoints", "http://h:1"), b"error: policy 'best' is unknown"),
        (
            ("--fleet", "h100", "--endpoints", TWICE),
            b"error: --fleet and --endpoints exclude each other",
        ),
        (("--endpoints", ","), b"error: --endpoints is empty"),
    ],
)
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_wrong_plan_ends_the_program_at_once(
    tmp_path: Path, options: tuple[str, ...], says: bytes, workers: str
) -> None:
    """Workers are not started to fail of it again and again: one line, and exit code 2."""
    (tmp_path / "fleet.yaml").write_text(FLEET)
    process = await asyncio.create_subprocess_exec(
        *command("--workers", workers, *options), stderr=asyncio.subprocess.PIPE, cwd=tmp_path
    )
    async with asyncio.timeout(60.0):
        _, said = await process.communicate()

    assert process.returncode == 2
    assert said.startswith(says)
    assert len(said.splitlines()) == 1


async def test_key_that_no_header_can_hold_is_refused_unseen() -> None:
    """A secret read from a file often ends its line."""
    process = await asyncio.create_subprocess_exec(
        *command("--endpoints", "http://127.0.0.1:1"),
        env={**os.environ, "VLLM_API_KEY": "secret\n"},
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60.0):
        _, said = await process.communicate()

    assert process.returncode == 2
    assert said.startswith(b"error: VLLM_API_KEY ")
    assert b"secret" not in said
