"""Whether a replica that says it is well is stuck, by its siblings' first bytes."""

import pytest

from loadbalancer.balancing.progress import (
    LEAST_ANSWERS,
    RECENT_S,
    STUCK_S,
    FirstBytes,
    OpenRequest,
    Progress,
)


def siblings(count: int = LEAST_ANSWERS, ttft_s: float = 0.1, tokens: int = 100) -> FirstBytes:
    """Answers of others to requests that were sent from second 1 on."""
    answers = FirstBytes()
    for _ in range(count):
        answers.latest.append(("sibling", 1.0, ttft_s, tokens))
    return answers


@pytest.mark.parametrize(
    ("answers", "waiting", "still_since_s", "stuck"),
    [
        (siblings(), OpenRequest(1.0, 100), 0.0, True),
        (siblings(LEAST_ANSWERS - 1), OpenRequest(1.0, 100), 0.0, False),
        (siblings(ttft_s=2.0), OpenRequest(1.0, 100), 0.0, False),
        (siblings(), OpenRequest(1.0, 10_000), 0.0, False),
        (siblings(), OpenRequest(1.0, 100), 3.0, False),
        (siblings(), OpenRequest(2.0, 100), 0.0, False),
    ],
    ids=["stuck", "few-siblings", "slow-siblings", "long-prompt", "progress", "sent-later"],
)
def test_stuck_is_what_siblings_are_not(
    answers: FirstBytes, waiting: OpenRequest, still_since_s: float, stuck: bool
) -> None:
    """It takes several answers to requests sent in the meantime, all of them much faster."""
    now_s = 1.0 + STUCK_S + 0.1

    assert answers.is_stuck("replica", waiting, still_since_s, now_s) is stuck


def test_own_answers_prove_nothing() -> None:
    """They came from the same replica before it got stuck, or are progress themselves."""
    assert not siblings().is_stuck("sibling", OpenRequest(1.0, 100), 0.0, 10.0)


def test_any_count_that_changes_is_progress() -> None:
    """Bytes that came to us, or tokens that the engine says it has made for others."""
    progress = Progress()
    for now_s, counts in enumerate([(0, None), (0, None), (0, 5.0), (0, 5.0), (1, 5.0), (1, 5.0)]):
        progress.look(counts, float(now_s))

    assert progress.still_since_s == 4.0


def test_earlier_answers_count_where_no_sibling_waits() -> None:
    """The last request before a pause; not where siblings may be stuck too, nor for ever."""
    seen = FirstBytes()
    seen.latest.extend(("b", 0.0, 0.1, 10) for _ in range(LEAST_ANSWERS))

    def stuck(sent_s: float, *, siblings_wait: bool) -> bool:
        waiting = OpenRequest(sent_s, 10)
        now_s = sent_s + 5.0
        return seen.is_stuck("a", waiting, 0.0, now_s, siblings_wait=siblings_wait)

    assert stuck(10.0, siblings_wait=False)
    assert not stuck(10.0, siblings_wait=True)
    assert not stuck(10.0 + RECENT_S, siblings_wait=False)
