"""What the engine owes."""

from hypothesis import given
from hypothesis import strategies as st

from servekit.launch.engine_work import EngineWork


def test_silence_is_counted_from_the_last_token() -> None:
    """And from the request, where none came yet."""
    work = EngineWork()
    work.begin(10.0)
    assert work.silent_s(15.0) == 5.0

    work.hear(16.0)
    work.begin(17.0)

    assert work.silent_s(20.0) == 4.0


def test_nothing_is_owed_when_all_is_answered() -> None:
    """However long ago that was."""
    work = EngineWork()
    work.begin(10.0)
    work.hear(11.0)
    work.end(abandoned=False)

    assert work.silent_s(1000.0) == 0.0


def test_client_that_gave_up_leaves_a_doubt() -> None:
    """It waited for nothing; whether the engine is slow or dead is to be found out."""
    work = EngineWork()
    work.begin(10.0)
    work.end(abandoned=True)
    assert work.silent_s(30.0) == 20.0

    work.begin(30.0)
    assert work.silent_s(40.0) == 30.0
    work.hear(41.0)
    work.end(abandoned=False)

    assert work.silent_s(50.0) == 0.0


@given(st.lists(st.sampled_from(["begin", "hear", "end", "abandon"])))
def test_silence_is_never_longer_than_there_was_time(steps: list[str]) -> None:
    """Whatever comes in which order."""
    work = EngineWork()
    for at, step in enumerate(steps):
        if step == "begin":
            work.begin(at)
        elif step == "hear":
            work.hear(at)
        elif work.open:
            work.end(abandoned=step == "abandon")
        assert 0 <= work.silent_s(at) <= at
