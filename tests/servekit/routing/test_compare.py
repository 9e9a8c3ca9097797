"""The situations in which policies are compared: everybody is served, and runs can be repeated."""

from dataclasses import replace

import pytest

from tests.servekit.routing.compare import SITUATIONS, Situation, arrivals, figures

SHORT = [replace(situation, length=0.02) for situation in SITUATIONS]


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
