"""Events that come late, not at all, twice, damaged, or from an engine that began anew."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from loadbalancer.kvevents.endpoints import endpoints_of
from loadbalancer.kvevents.events import SILENCE_S, FollowedRank, FollowedReplica
from loadbalancer.kvevents.subscriber import KvSubscriber
from servekit.errors.tree import SettingInvalid
from servekit.routing.exact_index import prompt_chain
from servekit.timing.clock import SystemClock
from tests.loadbalancer.kvevents.publisher import Publisher, payload, stored

TOKENS = list(range(16))
CHAIN = prompt_chain(TOKENS, 4)


@asynccontextmanager
async def followed(
    publisher: Publisher, *, replay: bool = True
) -> AsyncIterator[Callable[[], int | None]]:
    """Yield what says how many blocks of CHAIN the replica has; None while it is not followed."""
    endpoint = (publisher.endpoint, publisher.replay if replay else None)
    subscriber = KvSubscriber({"a": (endpoint,)}.__getitem__)
    task = asyncio.create_task(subscriber.run(lambda: ["a"], SystemClock()))

    def held() -> int | None:
        replica = subscriber.replicas.get("a")
        return None if replica is None else replica.held(CHAIN, 0.0)

    try:
        yield held
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(8000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise TimeoutError


async def test_blocks_of_before_and_after_the_subscription_are_known(tmp_path: Path) -> None:
    """A load balancer that starts later asks for what it has missed."""
    publisher = Publisher(str(tmp_path))
    await publisher.publish(stored([1, 2], TOKENS[:8]))
    async with followed(publisher) as held:
        await until(lambda: held() == 2)
        await publisher.publish(stored([3], TOKENS[8:12], parent=2))
        await until(lambda: held() == 3)
        await publisher.publish({"type": "BlockRemoved", "block_hashes": [3, 2], "medium": "GPU"})
        await until(lambda: held() == 1)
        await publisher.publish({"type": "AllBlocksCleared"})
        await until(lambda: held() == 0)
    publisher.close()


async def test_gap_is_filled_from_the_replay(tmp_path: Path) -> None:
    """Messages that buffers dropped are sent again."""
    publisher = Publisher(str(tmp_path))
    async with followed(publisher) as held:
        await until(lambda: held() == 0)
        await publisher.publish(stored([1], TOKENS[:4]))
        await until(lambda: held() == 1)
        await publisher.publish(stored([2], TOKENS[4:8], parent=1), lose=True)
        await publisher.publish(stored([3], TOKENS[8:12], parent=2), lose=True)
        await publisher.publish(stored([4], TOKENS[12:], parent=3))
        await until(lambda: held() == 4)
    # The last one that is known as well, which shows that it is the same engine.
    assert publisher.asked == [0, 0]
    publisher.close()


@pytest.mark.parametrize("replay", [True, False])
async def test_gap_that_cannot_be_filled_ends_following_until_the_cache_is_cleared(
    tmp_path: Path, replay: bool
) -> None:
    """What is known is not complete: unknown, and not less."""
    publisher = Publisher(str(tmp_path), kept=1)
    async with followed(publisher, replay=replay) as held:
        await asyncio.sleep(0.3)
        await publisher.publish(stored([1], TOKENS[:4]))
        await until(lambda: held() == 1)
        await publisher.publish(stored([2], TOKENS[4:8], parent=1), lose=True)
        await publisher.publish(stored([9], [7, 7, 7, 7]))
        await until(lambda: held() is None)
        await publisher.publish({"type": "AllBlocksCleared"})
        await publisher.publish(stored([1], TOKENS[:4]))
        await until(lambda: held() == 1)
    publisher.close()


async def test_engine_that_began_anew_has_an_empty_cache(tmp_path: Path) -> None:
    """Its numbers begin at 0 again; what it published meanwhile is asked for."""
    publisher = Publisher(str(tmp_path))
    async with followed(publisher) as held:
        await until(lambda: held() == 0)
        for number in range(4):
            parent = number or None
            tokens = TOKENS[4 * number : 4 * number + 4]
            await publisher.publish(stored([number + 1], tokens, parent))
        await until(lambda: held() == 4)
        publisher.close()
        publisher = Publisher(str(tmp_path))
        await publisher.publish(stored([11], TOKENS[:4]), lose=True)
        for again in range(400):
            await publisher.publish(stored([20 + again], [again] * 4))
            await asyncio.sleep(0.01)
            if held() == 1:
                break
    assert publisher.number < 400
    publisher.close()


@pytest.mark.parametrize(
    "forged",
    [b"", b"\xc1", b"\x93\x01\x02\x03", payload({"type": 7}), payload({"block_hashes": []}),
     payload({**stored([1], []), "token_ids": ["x"]}), payload(stored([5], TOKENS[:4], parent=77))],
)  # fmt: skip
async def test_forged_message_ends_following_and_nothing_else(
    tmp_path: Path, forged: bytes
) -> None:
    """The subscriber goes on; what it says is that it does not know."""
    publisher = Publisher(str(tmp_path))
    async with followed(publisher) as held:
        await until(lambda: held() == 0)
        await publisher.publish(raw=forged)
        await until(lambda: held() is None)
        await publisher.publish({"type": "AllBlocksCleared"})
        await publisher.publish(stored([1], TOKENS[:4]))
        await until(lambda: held() == 1)
    publisher.close()


def test_message_that_was_on_its_way_while_it_was_sent_again_is_no_restart() -> None:
    """What a replay brought comes twice; a lower number after that is another engine."""
    rank = FollowedRank()
    for number in range(4):
        rank.message(number, payload(stored([number], [number] * 4)))
    rank.caught_up()

    assert [rank.missing(number) for number in (2, 3, 4)] == [False, False, False]
    assert rank.missing(2)
    assert rank.missing(6)


def test_engine_that_says_nothing_after_a_prompt_is_not_believed() -> None:
    """It was sent blocks to store: after some seconds without an event it counts as not heard."""
    rank = FollowedRank()
    rank.message(0, payload(stored([1], TOKENS[:4])), 9.0)
    rank.expect(10.0, since_s=9.5)
    rank.expect(12.0, since_s=9.5)

    assert rank.alive(10.0 + SILENCE_S - 0.1)
    assert not rank.alive(10.0 + SILENCE_S)
    rank.message(1, payload(stored([2], TOKENS[4:8], parent=1)), 20.0)
    assert rank.alive(99.0)
    # Blocks are stored before the first token comes: it has said so already.
    rank.expect(20.1, since_s=19.0)
    assert rank.alive(99.0)


def test_ranks_of_one_replica_are_one_cache_each() -> None:
    """A prompt may go to any: the longest prefix counts, once all are followed."""
    replica = FollowedReplica(2)
    replica.ranks[0].message(0, payload(stored([1], TOKENS[:4])))
    assert replica.held(CHAIN, 0.0) is None

    replica.ranks[1].message(0, payload(stored([1, 2], TOKENS[:8])))
    assert replica.held(CHAIN, 0.0) == 2
    assert replica.block_tokens == 4


def test_events_of_older_releases_are_arrays() -> None:
    """Their type, then their fields."""
    rank = FollowedRank()
    rank.message(0, payload(["BlockStored", [1, 2], None, TOKENS[:8], 4, None, "GPU"]))
    rank.message(1, payload(["BlockRemoved", [2], "GPU"]))

    assert rank.blocks.held(CHAIN) == 1


def test_blocks_on_disk_or_of_another_group_do_not_count() -> None:
    """Only what the scheduler looks up first."""
    rank = FollowedRank()
    rank.message(0, payload({**stored([1], TOKENS[:4]), "medium": "STORAGE"}))
    rank.message(1, payload({**stored([1], TOKENS[:4]), "group_idx": 1}))

    assert rank.following
    assert rank.blocks.held(CHAIN) == 0


def test_endpoints_follow_their_patterns() -> None:
    """One of each for every rank."""
    two = endpoints_of("r0", "h", 8000, "tcp://{host}:5557,tcp://{host}:5558", None)

    assert two == (("tcp://h:5557", None), ("tcp://h:5558", None))
    one = endpoints_of("r0", "h", 8000, "ipc:///run/{name}.{port}", "ipc:///run/{name}.again")
    assert one == (("ipc:///run/r0.8000", "ipc:///run/r0.again"),)


@pytest.mark.parametrize(
    ("events", "replay", "says"),
    [
        ("tcp://{hots}:1", None, "placeholders"),
        ("http://{host}:1", None, "must be tcp:// or ipc://"),
        (" , ", None, "is empty"),
        ("tcp://a:1,tcp://a:2", "tcp://a:3", "every data-parallel rank"),
    ],
)
def test_pattern_that_cannot_be_followed_is_refused(
    events: str, replay: str | None, says: str
) -> None:
    """With the option, the value and the remedy."""
    with pytest.raises(SettingInvalid, match=says):
        endpoints_of("r0", "h", 8000, events, replay)
