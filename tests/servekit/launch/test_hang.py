"""An engine that hangs is told from one that is slow."""

from collections.abc import Callable
from dataclasses import dataclass

from servekit.launch.hang import EngineLook, EngineProcess, HangDetector

INTERVAL_S = 2.0


@dataclass
class Scene:
    """How an engine looks over time, in functions of seconds.

    Attributes:
        cpu: processor seconds that its worker has used; its core uses next to nothing.
        steps: what its counters say; None where nobody answers.
        owes: whether a request is open and nothing came.
    """

    cpu: Callable[[float], float] = lambda _: 0.0
    steps: Callable[[float], object] = lambda _: 0
    owes: Callable[[float], bool] = lambda _: True
    state: str = "S"

    def verdict(self, until_s: float = 900.0) -> tuple[float, str] | None:
        """When the detector gave its verdict, and which."""
        detector = HangDetector(silence_timeout_s=300.0)
        at_s, silent_s = 0.0, 0.0
        while at_s <= until_s:
            silent_s = silent_s + INTERVAL_S if self.owes(at_s) else 0.0
            processes = (
                EngineProcess(6, "python", "S", at_s * 0.1),
                EngineProcess(7, "EngineCore", self.state, at_s * 0.014),
                EngineProcess(8, "Worker_TP0", "S", self.cpu(at_s)),
            )
            look = EngineLook(at_s, silent_s, 3, self.steps(at_s), processes)
            if why := detector.judge(look):
                return at_s, why
            at_s += INTERVAL_S
        return None


def test_core_that_owes_and_computes_nothing_hangs() -> None:
    """It lacks its input thread, or waits for what never comes: within 40 s."""
    found = Scene().verdict()

    assert found is not None
    assert found[0] <= 40
    assert "3 requests open" in found[1]
    assert "computes nothing" in found[1]


def test_idle_engine_that_owes_nothing_is_well() -> None:
    """A night without a request."""
    assert Scene(owes=lambda _: False).verdict(until_s=36_000) is None


def test_long_prompt_is_no_hang() -> None:
    """On a CPU, minutes without a token: every step moves a counter, and the core is busy."""
    slow = Scene(cpu=lambda at_s: at_s, steps=lambda at_s: at_s // 100)

    assert slow.verdict() is None


def test_queue_behind_others_is_no_hang() -> None:
    """The requests before it are computed."""
    assert Scene(cpu=lambda at_s: at_s * 0.5, steps=lambda at_s: at_s // 2).verdict() is None


def test_single_step_may_take_as_long_as_was_set() -> None:
    """Busy, and no counter moves: after ENGINE_SILENCE_TIMEOUT_S it is a hang after all."""
    found = Scene(cpu=lambda at_s: at_s).verdict()

    assert found is not None
    assert 300 <= found[0] <= 304
    assert "ENGINE_SILENCE_TIMEOUT_S" in found[1]


def test_core_that_falls_idle_in_the_middle_is_noticed() -> None:
    """Busy for 100 s, and dead from then on."""
    found = Scene(cpu=lambda at_s: min(at_s, 100.0), steps=lambda at_s: min(at_s, 100.0)).verdict()

    assert found is not None
    assert 130 <= found[0] <= 140


def test_stopped_core_is_noticed_without_any_request() -> None:
    """/health is the API server's, and it goes on."""
    found = Scene(state="T", owes=lambda _: False).verdict()

    assert found == (20.0, "EngineCore (process 7) is stopped, as by SIGSTOP")


def test_server_that_does_not_answer_is_noticed() -> None:
    """Stopped, or its event loop is blocked for good; a long prompt blocks it for seconds."""
    found = Scene(steps=lambda _: None, owes=lambda _: False).verdict()
    busy = Scene(
        steps=lambda at_s: None if at_s % 60 < 30 else at_s, owes=lambda _: False
    ).verdict()

    assert found is not None
    assert 40 <= found[0] <= 44
    assert "API server" in found[1]
    assert busy is None
