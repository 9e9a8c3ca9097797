"""The client against servers of odd behaviour: what it says is true, or said to be unknown.

The shapes are those of vLLM, SGLang, llama.cpp, text-generation-inference, Azure OpenAI, OpenAI,
OpenRouter, Mistral and Anthropic; each behaviour names its source in tests/support.
"""

import asyncio

import pytest

from servekit.client.client import Client
from servekit.client.outcome import Notice, Outcome
from servekit.timing.clock import SystemClock
from tests.support.odd_behaviours import BEHAVIOURS
from tests.support.odd_server import Behaviour, Truth, odd_server, truth_of

# Loopback and two event-loop turns take far less; a busy machine takes some of it.
TOLERANCE_S = 0.005


async def meet(behaviour: Behaviour) -> tuple[Outcome, Truth]:
    """Ask the server once; return what the client says, and what was true."""
    async with odd_server([behaviour]) as (url, server):
        client = Client(f"{url}/{behaviour.name}", SystemClock(), timeout_s=1.0)
        outcome = await client.send(behaviour.path, b'{"model":"m","stream":true}')
        await client.aclose()
        await asyncio.sleep(0)
    return outcome, truth_of(behaviour.steps, server.written_s.get(behaviour.name, []))


def said(outcome: Outcome) -> dict[str, float | None]:
    """What the client says of a whole answer, in seconds since it was sent."""
    first, answer = outcome.first_content_s, outcome.answer_s
    return {
        "ttft_s": None if first is None else first - outcome.sent_s,
        "answer_s": None if answer is None else answer - outcome.sent_s,
        "e2e_s": outcome.last_token_s - outcome.sent_s,
        "token_time_s": outcome.token_time_s,
    }


def test_there_are_more_than_forty_behaviours_and_each_has_its_own_name() -> None:
    """The matrix cannot shrink unnoticed."""
    assert len({one.name for one in BEHAVIOURS}) == len(BEHAVIOURS) >= 100
    assert all(one.source for one in BEHAVIOURS)


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda one: one.name)
async def test_no_number_is_silently_wrong(behaviour: Behaviour) -> None:
    """A failure has its name and the server's words; a measure is true or unknown; what is odd
    about an answer is said."""
    wrong: list[str] = []

    # A machine that is busy with something else delays a stamp now and then, not three times.
    for _ in range(3):
        outcome, truth = await meet(behaviour)
        assert outcome.error == behaviour.error, outcome.detail
        assert behaviour.says in outcome.detail
        assert set(behaviour.notices) <= set(outcome.notices)
        wrong = [] if behaviour.error else wrong_numbers(behaviour, outcome, truth)
        if not wrong:
            break

    assert not wrong


def wrong_numbers(behaviour: Behaviour, outcome: Outcome, truth: Truth) -> list[str]:
    """What the client says that is not true, and what it does not say though it could."""
    wrong = []
    if outcome.completion_tokens != behaviour.counted:
        wrong.append(f"tokens: {outcome.completion_tokens}, truly {behaviour.counted}")
    for measure, value in said(outcome).items():
        true_value = None if measure in behaviour.unknown else getattr(truth, measure)
        per = (behaviour.counted or 2) / 2 if measure == "token_time_s" else 1.0
        if value != pytest.approx(true_value, abs=TOLERANCE_S / per):
            wrong.append(f"{measure}: {value}, truly {true_value}")
    return wrong


@pytest.mark.parametrize(
    "behaviour",
    [one for one in BEHAVIOURS if one.error is None and not one.notices],
    ids=lambda one: one.name,
)
async def test_nothing_is_said_of_an_ordinary_answer(behaviour: Behaviour) -> None:
    """A notice means something: the plain shapes of each server have none, unless the machine
    delays two events into one read."""
    outcome, _ = await meet(behaviour)

    assert set(outcome.notices) <= {Notice.BURSTS}
