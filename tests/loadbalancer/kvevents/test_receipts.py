"""An answer says how many blocks of its prompt the replica had, and how that is known."""

import json

from loadbalancer.kvevents.events import FollowedReplica
from loadbalancer.kvevents.exact import KvKnowledge
from tests.loadbalancer.engine import Engine, post, running
from tests.loadbalancer.kvevents.publisher import payload, stored

TOKENS = list(range(200))
BODY = json.dumps({"model": "m", "prompt": TOKENS}).encode()
LATENCY = b"x-servekit-policy: latency\r\n"


async def test_receipt_is_exact_while_events_are_followed_and_a_guess_otherwise() -> None:
    """Two blocks of 16 are cached, as the engine said; the last token is computed in any case."""
    replica = FollowedReplica()
    async with running(Engine()) as (balancer, port):
        balancer.kv = KvKnowledge({"r0": replica}, balancer.now)
        replica.ranks[0].message(0, payload(stored([1, 2], TOKENS[:32], size=16)))
        exact = await post(port, BODY, LATENCY)
        replica.ranks[0].lost("gap")
        guessed = await post(port, BODY, LATENCY)

    assert b"x-servekit-prefix: exact=2, approximate=0, unknown=0, of=12, tokens=16\r\n" in exact
    assert b"x-servekit-prefix: exact=0, approximate=1, unknown=0, of=1, tokens=128\r\n" in guessed


async def test_there_is_no_receipt_where_caches_are_not_followed() -> None:
    """Nothing is known that would not be a guess."""
    async with running(Engine()) as (_, port):
        assert b"x-servekit-prefix" not in await post(port, BODY, LATENCY)
