"""Every expression that people or alerts rely on, asked of a real Prometheus."""

import asyncio
import math
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from threading import Event

import aiohttp
import pytest

from dashboards.boards import BOARDS
from tests.dashboards.monitored_platform import (
    MODEL,
    Platform,
    monitored,
    platform,
    post,
    wait_for,
)
from tests.kubernetes.manifests import read

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        shutil.which("prometheus") is None,
        reason="prometheus is not on the PATH, so no panel was tried; apt-get install prometheus",
    ),
]

PANELS = {
    f"{board.uid}: {panel.title}: {query.legend}": query.expr
    for board in BOARDS
    for panel in board.panels
    for query in panel.queries
}
ALERTS = {
    rule["alert"]: rule["expr"]
    for group in read("monitoring/rules.yaml")["spec"]["groups"]
    for rule in group["rules"]
    if "alert" in rule
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with platform(tmp_path_factory.mktemp("platform")) as started:
        yield started


def as_grafana_would(expr: str) -> str:
    """Fill in what Grafana fills in: every value of a choice, and four scrapes of an interval."""
    return expr.replace("$__rate_interval", "10s").replace("$model", ".+").replace("$node", ".+")


@contextmanager
def people_chatting(running: Platform) -> Iterator[None]:
    """Two at a time, one of them streamed, one answer after another."""
    enough = Event()

    def chat(stream: bool) -> None:
        while not enough.is_set():
            body = {"message": "Hello", "max_tokens": 20, "stream": stream}
            assert post(running.chat + "/chat", body) == 200
            # What the load balancer refuses itself is shown too.
            assert post(running.balancer + "/v1/completions", {"model": "nobody's"}) == 404
            enough.wait(1.0)

    with ThreadPoolExecutor() as people:
        chatting = [people.submit(chat, stream) for stream in (True, False)]
        try:
            yield
        finally:
            enough.set()
    for chats in chatting:
        chats.result()


async def _all_at_once(urls: list[str], bodies: list[dict[str, object]]) -> None:
    """Send all of them to each of *urls*, on a connection each."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def send(url: str, body: dict[str, object]) -> None:
            async with session.post(url + "/v1/completions", json=body) as answer:
                await answer.read()

        await asyncio.gather(*(send(url, body) for url in urls for body in bodies))


def prompts(count: int, length: int, max_tokens: int) -> list[dict[str, object]]:
    """*count* requests whose prompts of *length* tokens share no beginning."""
    # The simulator counts four bytes of text as a token.
    return [
        {
            "model": MODEL,
            "prompt": f"{number:04}" + "word" * (length - 1),
            "max_tokens": max_tokens,
            "ignore_eos": True,
        }
        for number in range(count)
    ]


def test_every_service_is_scraped(running: Platform) -> None:
    """Each that a ServiceMonitor names is up, but for the replica that is to be down."""
    wait_for(lambda: len(running.query("up")) == 6, "all targets were scraped")

    down = running.query("up == 0")
    jobs = {target["labels"]["job"] for target in running.ask("/api/v1/targets")["activeTargets"]}

    assert jobs == monitored()
    assert down == [0.0]


def test_every_panel_has_data(running: Platform) -> None:
    """While people chat, each expression gives a number; the ones that autoscaling reads too."""
    scaled = read("model_server/replicated/autoscaling.yaml")["spec"]["triggers"]
    asked = PANELS | {"KEDA": scaled[0]["metadata"]["query"]}
    empty = dict(asked)

    def all_have_data() -> bool:
        for name, expr in list(empty.items()):
            if any(map(math.isfinite, running.query(as_grafana_would(expr)))):
                del empty[name]
        return not empty

    with people_chatting(running):
        wait_for(all_have_data, f"data in {empty}")


def test_every_rule_is_evaluated(running: Platform) -> None:
    """Prometheus finds no fault with any of them."""
    groups = running.ask("/api/v1/rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]

    assert {rule["name"] for rule in rules} >= ALERTS.keys()
    assert {
        rule["name"]: rule.get("lastError", "") for rule in rules if rule["health"] == "err"
    } == {}


def late_first_tokens(running: Platform) -> None:
    """Both engines say nothing for four seconds, with hundreds waiting."""
    for engine in running.engines:
        post(engine + "/simulator/fault", {"kind": "stall", "seconds": 4})
    asyncio.run(_all_at_once(running.engines, prompts(400, 4, 1)))


def full_cache(running: Platform) -> None:
    """More prompts than the cache holds, at an engine that takes its time."""
    engine = running.engines[0]
    post(engine + "/simulator/fault", {"kind": "slow", "factor": 40})

    async def send() -> None:
        sending = asyncio.create_task(_all_at_once([engine], prompts(70, 1000, 500)))
        # Queued they are; the answers would take minutes.
        await asyncio.to_thread(rings, running, "QueueDeep")
        await asyncio.to_thread(rings, running, "KvCacheFull")
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    asyncio.run(send())


def failing_chats(running: Platform) -> None:
    """One after another: a counter that is new has no rate before its second scrape."""
    for engine in running.engines:
        post(engine + "/simulator/fault", {"kind": "errors", "status": 500})

    numbers = count()

    def fails_and_rings() -> bool:
        # Another one each time: the balancer refuses a request that it takes for deadly.
        message = f"Hello {next(numbers)}"
        assert post(running.chat + "/chat", {"message": message}) in (502, 503)
        return bool(running.query(ALERTS["ChatFails"]))

    wait_for(fails_and_rings, "ChatFails has data")


def rings(running: Platform, alert: str) -> None:
    wait_for(lambda: running.query(ALERTS[alert]), f"{alert} has data")


def test_every_alert_finds_what_it_is_about(running: Platform) -> None:
    """Each comes true once what it is about really happens, on metrics as they really are."""
    for alert in ("ReplicaDown", "GpuHot", "GpuXid"):
        rings(running, alert)
    late_first_tokens(running)
    for alert in ("FirstTokenBudgetBurnsFast", "FirstTokenBudgetBurns"):
        rings(running, alert)
    full_cache(running)
    failing_chats(running)

    here = {"ReplicaDown", "GpuHot", "GpuXid", "QueueDeep", "KvCacheFull", "ChatFails"}
    here |= {"FirstTokenBudgetBurnsFast", "FirstTokenBudgetBurns"}
    # What is down, hung or full, and what only a cluster has: tests/kubernetes/test_alerts.py.
    elsewhere = {"EngineDown", "EngineHung", "EngineRestarts", "GpuMetricsMissing", "VolumeFull"}
    elsewhere |= {"BalancerDown", "ImagesCannotBePulled", "RegistryTokenOld", "ChatDown"}
    assert ALERTS.keys() == here | elsewhere, "an alert is new; make what it is about happen here"
