"""Drain, reload, limits and keys, over real sockets."""

import asyncio
import hashlib
import json
from pathlib import Path
from random import Random

import pytest

from loadbalancer.balancing.admission import Admission
from loadbalancer.balancing.balancer import Balancer, Rules
from loadbalancer.membership.reloading import WatchedFile, apply_fleet
from loadbalancer.server.keys import read_keys
from loadbalancer.server.request_info import read_request
from servekit.errors.tree import FleetInvalid, ReplicaMissing
from servekit.fleet.fleet import Fleet, FleetModel, FleetReplica
from tests.loadbalancer.engine import Engine, Held, post, running, talk
from tests.support.clock import FakeClock
from tests.support.waiting import until


def fleet_of(*engines: Engine) -> Fleet:
    return Fleet(
        models=(FleetModel(name="m", short_name="m"),),
        replicas=tuple(
            FleetReplica(name=f"n{n}", model="m", gpus=(n,), port=int(e.url.rpartition(":")[2]))
            for n, e in enumerate(engines)
        ),
    )


async def test_reload_replaces_replicas_without_losing_a_request() -> None:
    """What is in flight at a replica that leaves runs to its end."""
    old, new = Engine("stream", events=200), Engine()
    async with running(old, new) as (balancer, port):
        apply_fleet(balancer, fleet_of(old))
        under_way = [asyncio.create_task(post(port)) for _ in range(10)]
        await asyncio.sleep(0)
        apply_fleet(balancer, fleet_of(new))
        after = [await post(port) for _ in range(5)]
        answers = await asyncio.gather(*under_way)

    assert all(answer.startswith(b"HTTP/1.1 200") for answer in [*answers, *after])
    assert len(new.bodies) >= 5


async def test_reload_of_every_replica_leaves_the_queue_standing() -> None:
    """Between the old ones and the new ones there is no moment without any."""
    old, new = Held("whole"), Engine()
    async with running(old, new, max_in_flight=1) as (balancer, port):
        apply_fleet(balancer, fleet_of(old))
        under_way = asyncio.create_task(post(port))
        await until(lambda: len(old.bodies) == 1)
        waiting = [asyncio.create_task(post(port)) for _ in range(5)]
        await until(lambda: balancer.services["m"].admission.waiting == 5)
        apply_fleet(balancer, fleet_of(new))
        old.go.set()
        answers = await asyncio.gather(under_way, *waiting)

    assert {answer[:12] for answer in answers} == {b"HTTP/1.1 200"}
    assert (len(old.bodies), len(new.bodies)) == (1, 5)


async def test_fleet_with_a_policy_nobody_wrote_changes_nothing() -> None:
    """Not even the replicas that were named before it: all of a fleet holds, or nothing."""
    standing, other = Engine(), Engine()
    async with running(standing, other) as (balancer, port):
        apply_fleet(balancer, fleet_of(standing))
        before = dict(balancer.replicas)
        wrong = FleetModel(name="m", short_name="m", policy="best")
        with pytest.raises(FleetInvalid, match="model 'm': policy 'best' is unknown"):
            apply_fleet(balancer, Fleet(models=(wrong,), replicas=fleet_of(other).replicas))
        answer = await post(port)

        assert balancer.replicas == before
        assert answer.startswith(b"HTTP/1.1 200")


def test_file_that_is_not_valid_changes_nothing(tmp_path: Path) -> None:
    """And is not read again until it changes."""
    tried: list[str] = []

    def reread() -> None:
        tried.append("once")
        raise FleetInvalid("no replica")

    watched = WatchedFile(tmp_path / "fleet.yaml", reread)

    assert not watched.reload()
    assert tried == ["once"]


async def test_requests_beyond_the_limit_wait_for_room() -> None:
    """None is refused while the queue is not full."""
    async with running(Engine("stream"), max_in_flight=1) as (_, port):
        answers = await asyncio.gather(*(post(port) for _ in range(20)))

    assert all(b"[DONE]" in answer for answer in answers)


async def test_request_that_waited_too_long_is_told_when_to_come_back() -> None:
    """503 with Retry-After, and nothing stays counted."""
    engine = Engine("stall")
    async with running(engine, max_in_flight=1, wait_s=0.05) as (balancer, port):
        stuck = asyncio.create_task(post(port))
        await until(lambda: engine.bodies)
        answer = await post(port)
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)

        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: " in answer
        admission: Admission = balancer.services["m"].admission
        assert admission.waiting == 0


async def test_who_waits_for_a_model_that_leaves_is_told() -> None:
    """Nobody serves it any more, and nobody will let the request in."""
    engine = Engine("stall")
    async with running(engine, max_in_flight=1) as (balancer, port):
        under_way = asyncio.create_task(post(port))
        await until(lambda: len(engine.bodies) == 1)
        waits = asyncio.create_task(post(port))
        await until(lambda: balancer.services["m"].admission.waiting == 1)
        balancer.remove("r0")
        answer = await waits
        under_way.cancel()
        await asyncio.gather(under_way, return_exceptions=True)

    assert answer.startswith(b"HTTP/1.1 503")
    assert b"no replica serves it any more" in answer


async def test_request_that_fails_after_its_model_left_is_answered() -> None:
    """There is nobody to send it to again."""
    engines = Held("die"), Held("die")
    async with running(*engines) as (balancer, port):
        under_way = asyncio.create_task(post(port))
        await until(lambda: any(engine.bodies for engine in engines))
        for name in ("r0", "r1"):
            balancer.remove(name)
        for engine in engines:
            engine.go.set()
        answer = await under_way

    # By whether the connection had been used before, it counts as a failure or is sent again.
    assert answer[9:12] in (b"502", b"503")


async def test_request_without_the_key_is_refused() -> None:
    """Before its body is read; /health stays open."""
    engine = Engine()
    ring = read_keys(hashlib.sha256(b"k").hexdigest(), "keys")
    async with running(engine, keys=ring) as (_, port):
        refused = await post(port)
        served = await post(port, lines=b"authorization: Bearer k\r\n")

    assert refused.startswith(b"HTTP/1.1 401")
    assert served.startswith(b"HTTP/1.1 200")
    assert len(engine.bodies) == 1


async def test_engines_with_a_key_are_asked_with_it() -> None:
    """For what they serve, and for whoever has shown a key of ours, which ends here."""
    engine = Engine(key=b"theirs")
    ring = read_keys(hashlib.sha256(b"ours").hexdigest(), "keys")
    async with running(engine, keys=ring, engine_key="theirs") as (balancer, port):
        await until(lambda: "m" in balancer.services)
        answer = await post(port, lines=b"Authorization: Bearer ours\r\n")

    assert answer.startswith(b"HTTP/1.1 200")
    assert b"authorization: Bearer theirs\r\n" in engine.heads[0]
    assert b"ours" not in engine.heads[0]


async def test_engines_key_is_lent_to_nobody_who_has_none() -> None:
    """Where everybody is let in, the engines themselves must ask."""
    engine = Engine(key=b"theirs")
    async with running(engine, engine_key="theirs") as (balancer, port):
        await until(lambda: "m" in balancer.services)
        await post(port, lines=b"authorization: Bearer guess\r\n")

    assert b"authorization: Bearer guess\r\n" in engine.heads[0]
    assert b"theirs" not in engine.heads[0]


async def test_keys_guard_everything_that_tells_something() -> None:
    """Health does not, and the page is empty until it has a key; new keys count at once."""
    paths = ["/v1/models", "/metrics", "/replicas", "/decisions"]
    close = b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n%b\r\n"

    async def statuses(port: int, line: bytes, paths: list[str]) -> set[bytes]:
        asks = [b"GET " + path.encode() + close % line for path in paths]
        return {(await talk(port, ask))[9:12] for ask in asks}

    ring = read_keys(hashlib.sha256(b"k").hexdigest(), "keys")
    async with running(Engine(), keys=ring) as (_, port):
        assert await statuses(port, b"", paths) == {b"401"}
        assert await statuses(port, b"authorization: Bearer x\r\n", paths) == {b"401"}
        assert await statuses(port, b"authorization: Bearer k\r\n", paths) == {b"200"}
        assert await statuses(port, b"", ["/health", "/readyz", "/status"]) == {b"200"}


async def test_stop_lets_streams_finish() -> None:
    """Whoever was let in gets the whole answer."""
    async with running(Engine("stream", events=300), drain_s=5.0) as (_, port):
        under_way = [asyncio.create_task(post(port)) for _ in range(5)]
        await asyncio.sleep(0.01)

    assert all(b"[DONE]" in answer for answer in await asyncio.gather(*under_way))


async def test_replicas_are_shown_with_what_is_known_of_them() -> None:
    """The page at /status reads this; it loads nothing from elsewhere."""
    close = b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    async with running(Engine()) as (_, port):
        await post(port)
        replicas = await talk(port, b"GET /replicas" + close)
        page = await talk(port, b"GET /status" + close)

    (replica,) = json.loads(replicas.partition(b"\r\n\r\n")[2])
    assert (replica["name"], replica["healthy"], replica["in_flight"]) == ("r0", True, 0)
    assert replica["load"]["running"] == 0
    assert replica["load"]["waiting"] is None
    assert b"text/html" in page
    assert b"://" not in page


async def test_what_is_refused_is_counted_by_status() -> None:
    """Of what never reached a replica no replica's counts can tell."""
    async with running(Engine("stall"), max_in_flight=1, most_waiting=0) as (balancer, port):
        stuck = asyncio.create_task(post(port))
        await until(lambda: balancer.replicas["r0"].load.in_flight == 1)
        await post(port)
        await post(port, b"{}")
        await post(port, b'{"model":"none"}')
        await talk(port, b"GET /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)

        assert balancer.telemetry.refusals == {503: 1, 400: 1, 404: 2}


async def test_replica_is_asked_again_as_soon_as_its_rest_is_over() -> None:
    """Not only when somebody looks at the clock again; until then it says for how long yet."""
    clock = FakeClock()
    balancer = Balancer(Rules(policy="queue"), Random(0), clock.now)
    replica = balancer.add("r", "http://127.0.0.1:1", ("m",))
    routable = read_request(balancer, {}, b'{"model":"m"}')
    balancer.refused(replica, {b"retry-after": b"2"})

    clock.advance(0.5)
    with pytest.raises(ReplicaMissing) as refused:
        balancer.choose(routable, (), clock.now())
    clock.advance(1.5)

    assert refused.value.retry_after_s == 1.5
    assert balancer.choose(routable, (), clock.now()).replica == "r"
