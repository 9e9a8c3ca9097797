"""The situations in which policies are compared: everybody is served, and runs can be repeated."""

from dataclasses import replace

import pytest

from tests.servekit.routing.compare import SITUATIONS, Situation, arrivals, figures

# The largest fleets differ from the others in nothing but their size.
SHORT = [replace(situation, length=0.02) for situation in SITUATIONS if len(situation.gpus) <= 40]


@pytest.mark.parametrize("situation", SHORT, ids=[one.name for one in SHORT])
def test_situation_is_the_same_for_every_policy(situation: Situation) -> None:
    """The seed decides who asks what and when; requests come in order of time."""
    one, again = (arrivals(situation, 0.9, 3) for _ in range(2))

    assert one == again
    assert one != arrivals(situation, 0.9, 4)
    assert [a.at_s for a in one] == sorted(a.at_s for a in one)


@pytest.mark.parametrize("situation", SHORT, ids=[one.name for one in SHORT])
def test_situation_is_served_whole(situation: Situation) -> None:
    """No request fails, and a first token comes before the last."""
    found = figures(situation, 0.9, 1, "latency")

    assert 0.0 < found.ttft_p50 <= found.ttft_p99 <= 1e3 * found.e2e_p99


def test_clairvoyant_policies_see_what_is_cached() -> None:
    """The oracle's hits are the most that a policy can have without moving anything."""
    chat = next(one for one in SHORT if one.name == "chat, 8")
    chat = replace(chat, length=0.1)

    hits = {name: figures(chat, 0.6, 1, name).hits for name in ("oracle", "latency", "random")}

    assert hits["oracle"] > hits["latency"] > hits["random"]
    assert hits["latency"] > 0.9 * hits["oracle"]


def test_one_replica_that_lies_does_not_slow_the_others_down() -> None:
    """It says that it is empty, or full: p50 stays within a tenth of that of an honest fleet."""
    honest, idle, full = (
        figures(replace(one, length=0.3), 0.6, 1, "latency").ttft_p50
        for name in ("equal", "one claims to be idle", "one claims to be full")
        for one in SITUATIONS
        if one.name == name
    )

    assert idle < 1.1 * honest
    assert full < 1.15 * honest
