"""The fuzz program, for as long as a test may take."""

from tests.loadbalancer.fuzz import fuzz


async def test_hostile_bytes_break_no_promise() -> None:
    """No exception, no hang, nothing left in flight; ten minutes of it are in the docs."""
    outcomes = await fuzz(1.5, seed=7)

    assert outcomes["answered"] > 0
    assert outcomes["hung"] == 0
