"""Requests are gathered where prompts come faster than steps, and nowhere else."""

from hypothesis import given
from hypothesis import strategies as st

from servekit.metrics.engine_load import EngineLoad
from servekit.routing.load_tracker import Account, Ledger
from servekit.routing.prompt_batching import (
    FEWEST_STEPS,
    LEAST_CACHED,
    MOST,
    MOST_STEPS,
    Gathering,
)

STEPS_PER_S = 50
PROMPT_TOKENS = 100
CACHED = 2 * LEAST_CACHED * PROMPT_TOKENS
# A period so long that no poll is stale.
POLL_S = 1e6


def _account(ledger: Ledger, name: str = "a", *, waiting: int = 0, used: int = CACHED) -> Account:
    """One whose engine was seen to take 50 steps a second over a cache of *used* tokens."""
    account = ledger.account(name)
    for second in (0, 1):
        load = EngineLoad(
            running=10,
            waiting=waiting,
            kv_usage=0.5,
            kv_tokens=2 * used,
            generation_tokens=10 * STEPS_PER_S * second,
        )
        ledger.polled(name, load, float(second))
    return account


def _open(gathering: Gathering, replicas: int = 2) -> str | None:
    account = gathering.open(PROMPT_TOKENS, replicas, now_s=1.0)
    return None if account is None else account.name


def _after(account: Account, other: Account, rate: float) -> Gathering:
    """Return one that saw *rate* requests a second for long, the last of them to *account*."""
    gathering = Gathering()
    for number in range(1, 1001):
        gathering.sent(other, number / rate)
    gathering.sent(account, 1001 / rate)
    return gathering


def test_prompts_that_come_faster_than_steps_are_gathered() -> None:
    """Just inside the bounds the last replica stays open, just outside it does not."""
    ledger = Ledger(POLL_S)
    account, other = _account(ledger), _account(ledger, "b")
    slowest, fastest = (2 * STEPS_PER_S / steps for steps in (MOST_STEPS, FEWEST_STEPS))

    assert _open(_after(account, other, 0.95 * slowest)) is None
    assert _open(_after(account, other, 1.05 * slowest)) == "a"
    assert _open(_after(account, other, 0.95 * fastest)) == "a"
    assert _open(_after(account, other, 1.05 * fastest)) is None


def test_twice_the_replicas_take_twice_the_prompts() -> None:
    """What counts is how many come to each replica per step."""
    ledger = Ledger(POLL_S)
    gathering = _after(_account(ledger), _account(ledger, "b"), 100.0)

    assert _open(gathering, 2) == "a"
    assert _open(gathering, 4) is None


def test_long_prompt_is_not_gathered() -> None:
    """Reading it takes longer than what a step without a prompt saves."""
    ledger = Ledger(POLL_S)
    gathering = _after(_account(ledger), _account(ledger, "b"), 100.0)

    assert gathering.open(CACHED // LEAST_CACHED, 2, now_s=1.0) is ledger.account("a")
    assert gathering.open(CACHED // LEAST_CACHED + 1, 2, now_s=1.0) is None


def test_engine_without_memory_for_more_is_sent_no_group() -> None:
    """Its requests wait for memory: who is sent together is not read together."""
    ledger = Ledger(POLL_S)
    account, other = _account(ledger, waiting=MOST + 1), _account(ledger, "b")

    assert _open(_after(account, other, 100.0)) is None


def test_unknown_engine_is_sent_no_group() -> None:
    """Never polled, or not for long: it may take any number of steps."""
    ledger = Ledger(POLL_S)
    known, other = _account(ledger), _account(ledger, "b")

    assert _open(_after(ledger.account("c"), other, 100.0)) is None
    assert _after(known, other, 100.0).open(PROMPT_TOKENS, 2, now_s=4 * POLL_S) is None


def test_nobody_was_sent_anything_yet() -> None:
    """The first request follows no other."""
    assert _open(Gathering()) is None


@given(gaps=st.lists(st.floats(0.0, 0.02), min_size=MOST, max_size=60))
def test_no_more_than_so_many_go_to_one_replica_in_a_row(gaps: list[float]) -> None:
    """However fast they come, a group ends."""
    ledger = Ledger(POLL_S)
    account = _account(ledger)
    gathering, now_s = _after(account, _account(ledger, "b"), 100.0), 1001 / 100.0
    for gap_s in gaps:
        now_s += gap_s
        gathering.sent(account, now_s)

    assert _open(gathering) is None


def test_pause_is_forgotten_within_seconds() -> None:
    """After a night without requests they are gathered again as soon as they come fast."""
    ledger = Ledger(POLL_S)
    account, other = _account(ledger), _account(ledger, "b")
    gathering = _after(account, other, 100.0)
    now_s = 40_000.0
    for number in range(300):
        now_s += 0.01
        gathering.sent(account if number % 2 else other, now_s)

    assert _open(gathering) == "a"
