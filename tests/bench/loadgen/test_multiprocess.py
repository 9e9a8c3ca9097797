"""Several processes make one run."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.loadgen.client_load import ClientLoad
from bench.loadgen.multiprocess import deal, deal_users, load_with_workers, together
from bench.loadgen.run_result import LoadResult
from bench.loadgen.session import Endpoint
from bench.target.arms import Arm
from bench.target.processes import Program, stopped_at_the_end
from bench.workload.schedule import Call, Schedule
from tests.support.records import a_record, at

CALLS = tuple(
    Call(at_s=n / 50, model="m", prompt_tokens=3, output_tokens=5, blocks=(n,), conversation=n)
    for n in range(40)
)


@given(users=st.integers(1, 200), workers=st.integers(1, 8))
def test_no_user_is_lost_among_workers(users: int, workers: int) -> None:
    """The closed loop has as many users as were asked for, evenly spread."""
    dealt = [own or 0 for own in deal_users(users, workers)]

    assert sum(dealt) == users
    assert max(dealt) - min(dealt) <= 1


@given(workers=st.integers(1, 8))
def test_every_call_is_dealt_once(workers: int) -> None:
    """And a burst is shared by all."""
    dealt = deal(CALLS, workers)

    assert sorted((c for own in dealt for c in own), key=lambda c: c.at_s) == list(CALLS)


def test_burdens_of_workers_add_up() -> None:
    """Two cores have twice the time; the later loop is the one that counts."""
    light = ClientLoad(wall_s=10.0, cpu_s=2.0, cores=1, lag_p50_ms=0.1, lag_p99_ms=1.0)
    heavy = ClientLoad(wall_s=10.0, cpu_s=6.0, cores=1, lag_p50_ms=0.2, lag_p99_ms=4.0)
    now = datetime.now(UTC)
    shares = [
        LoadResult(records=[at(a_record(), 0, 1.0)], burden=light, started=now, partial=False),
        LoadResult(records=[at(a_record(), 0, 0.0)], burden=heavy, started=now, partial=True),
    ]

    whole = together(shares, now, stopped=False)

    assert [record.part_s for record in whole.records] == [0.0, 1.0]
    assert whole.burden.cpu_share == pytest.approx(0.4)
    assert whole.burden.lag_p99_ms == 4.0
    assert whole.partial


@pytest.mark.parametrize("users", [None, 4])
def test_workers_do_together_what_one_would_do(users: int | None, tmp_path: Path) -> None:
    """All calls are made once, each when it was due, on one time scale."""
    log = tmp_path / "log"
    with stopped_at_the_end() as programs:
        programs.append(
            Program(
                "mock", ["bench.target.mock_server", "--ttft-ms", "5", "--tokens", "5"], log=log
            )
        )
        arm = Arm(name="mock", url=programs[0].ready()["url"])
        before = time.monotonic()
        measured = load_with_workers(arm, Schedule("w", 1, CALLS), users, Endpoint(), 2)

    assert sorted(record.conversation for record in measured.records) == list(range(40))
    assert all(record.ok for record in measured.records)
    assert measured.burden.cores == 2
    assert 0.0 <= measured.records[0].sent_s < time.monotonic() - before
    if users is None:
        due = [record.due_s for record in measured.records]
        assert due == pytest.approx([call.at_s for call in CALLS], abs=1e-6)
