"""Requests are gathered where prompts come faster than steps, and nowhere else."""

from hypothesis import given
from hypothesis import strategies as st

from servekit.metrics.engine_load import EngineLoad
from servekit.routing.gathering import MOST, PROMPTS_PER_STEP, Gathering
from servekit.routing.ledger import Account, Ledger

STEPS_PER_S = 50


def _account(ledger: Ledger, name: str = "a") -> Account:
    """One whose engine was seen to take 50 steps a second."""
    account = ledger.account(name)
    for second in (0, 1):
        tokens = 10 * STEPS_PER_S * second
        ledger.polled(name, EngineLoad(running=10, generation_tokens=tokens), float(second))
    return account


def _after(account: Account, other: Account, rate: float) -> Gathering:
    """Return one that saw *rate* requests a second for long, the last of them to *account*."""
    gathering = Gathering()
    for number in range(1, 1001):
        gathering.sent(other, number / rate)
    gathering.sent(account, 1001 / rate)
    return gathering


def test_prompts_that_come_faster_than_steps_are_gathered() -> None:
    """Just above the threshold the last replica stays open, just below it does not."""
    ledger = Ledger(1.0)
    account, other = _account(ledger), _account(ledger, "b")
    at_threshold = PROMPTS_PER_STEP * STEPS_PER_S * 2

    assert _after(account, other, 1.05 * at_threshold).open(2) == "a"
    assert _after(account, other, 0.95 * at_threshold).open(2) is None


def test_twice_the_replicas_take_twice_the_prompts() -> None:
    """What counts is how many come to each replica per step."""
    ledger = Ledger(1.0)
    gathering = _after(_account(ledger), _account(ledger, "b"), 100.0)

    assert gathering.open(2) == "a"
    assert gathering.open(4) is None


def test_unknown_speed_gathers_nothing() -> None:
    """A replica that was never polled may take any number of steps."""
    ledger = Ledger(1.0)
    gathering = _after(ledger.account("a"), ledger.account("b"), 1000.0)

    assert gathering.open(1) is None


def test_nobody_was_sent_anything_yet() -> None:
    """The first request follows no other."""
    assert Gathering().open(1) is None


@given(gaps=st.lists(st.floats(0.0, 1e-3), min_size=MOST, max_size=60))
def test_no_more_than_so_many_go_to_one_replica_in_a_row(gaps: list[float]) -> None:
    """However fast they come, a group ends."""
    ledger = Ledger(1.0)
    account = _account(ledger)
    gathering, now_s = Gathering(), 0.0
    for gap_s in gaps:
        now_s += gap_s
        gathering.sent(account, now_s)

    assert gathering.open(1) is None


def test_pause_is_forgotten_within_seconds() -> None:
    """After a night without requests they are gathered again as soon as they come fast."""
    ledger = Ledger(1.0)
    account, other = _account(ledger), _account(ledger, "b")
    gathering = _after(account, other, 100.0)
    now_s = 40_000.0
    for number in range(300):
        now_s += 0.01
        gathering.sent(account if number % 2 else other, now_s)

    assert gathering.open(2) == "a"
