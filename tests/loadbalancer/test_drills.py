"""One replica fails in every way there is, under load: clients do not notice.

All of it, at 2, 8 and 40 replicas: `python -m tests.loadbalancer.drills`.
"""

import pytest

from tests.loadbalancer.drills import DRILLS, POISONS, drill

# Of 1,000 requests; and until the first byte, the client's own waiting for a busy machine included.
MOST_BAD, LONGEST_S = 10, 5.0


@pytest.mark.parametrize("fault", ["404", "html"])
async def test_no_client_sees_a_replica_that_answers_badly(fault: str) -> None:
    """Its siblings answer instead, and it is taken out."""
    result = await drill(fault, replicas=2, workers=1)

    assert result.bad == []
    assert result.ejections >= 1


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("replicas", "workers"), [(2, 1), (8, 2)])
@pytest.mark.parametrize("fault", [f for f in DRILLS if f not in (*POISONS, "client-errors")])
async def test_one_bad_replica_costs_one_request_in_a_hundred_at_most(
    fault: str, replicas: int, workers: int
) -> None:
    """And nobody waits for long."""
    result = await drill(fault, replicas, workers)

    assert len(result.bad) <= MOST_BAD, result.bad[:3]
    assert result.longest_s < LONGEST_S


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("fault", list(POISONS))
async def test_two_engines_at_most_die_of_one_request(fault: str, workers: int) -> None:
    """However often it is sent, one after the other or at once; the others go on."""
    result = await drill(fault, replicas=8, workers=workers)

    assert result.gone <= 2
    assert len(result.bad) <= MOST_BAD, result.bad[:3]


@pytest.mark.parametrize("workers", [1, 2])
async def test_what_clients_do_wrong_counts_against_no_replica(workers: int) -> None:
    """1,000 answers of 400, 413 and 422."""
    result = await drill("client-errors", replicas=2, workers=workers)

    assert (result.faults, result.ejections) == (0, 0)


@pytest.mark.slow
async def test_shortage_of_descriptors_is_no_fault_of_a_replica() -> None:
    """Clients that do nothing are closed, for those that do."""
    result = await drill("descriptors", replicas=2, workers=1)

    assert result.ejections == 0
    assert result.bad == []
