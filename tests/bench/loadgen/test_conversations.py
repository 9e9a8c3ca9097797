"""Conversations against a real server: a turn waits for the answer before it, and repeats it."""

import asyncio
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from bench.loadgen.progress import NoProgress
from bench.loadgen.replay import SESSION_ENDED
from bench.loadgen.session import Endpoint, SessionInputs, book_for, keep_busy, replay_once
from bench.loadgen.text_scale import learn_text_scales
from bench.target.arms import Arm
from bench.workload.request_bodies import Api, PromptBook, RequestShape
from bench.workload.schedule import Call, Part, Schedule
from servekit.timing.clock import SystemClock
from tests.support.openai_scribe import Scribe, scribe

DELAY_S = 0.05


def a_turn(text: str, conversation: int = 0, **more: Any) -> Call:
    call = Call(at_s=0.0, model="m", prompt_tokens=1, output_tokens=2, text=text)
    return msgspec.structs.replace(call, conversation=conversation, new_tokens=1, **more)


TALK = (
    a_turn("q1"),
    a_turn("q2", delay_s=DELAY_S),
    a_turn("q3", delay_s=DELAY_S),
)


def inputs(api: Api = Api.CHAT, **more: Any) -> SessionInputs:
    endpoint = Endpoint(shape=RequestShape(api=api), **more)
    book = book_for(Schedule("w", 1, TALK), endpoint)
    return SessionInputs(book, SystemClock(), NoProgress(), endpoint, asyncio.Event())


def arm(server: Scribe) -> Arm:
    return Arm(name="a", url=server.url)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_turn_sends_what_the_model_really_said(stream: bool) -> None:
    """The messages of a chat alternate, and the answers are the server's."""
    async with scribe() as server:
        given = inputs()
        shape = RequestShape(api=Api.CHAT, stream=stream)
        given = SessionInputs(
            PromptBook(1, shape), given.clock, given.progress, Endpoint(shape=shape), given.stop
        )
        measured = await replay_once(arm(server), Part(1, 0.0, 1.0, TALK), given)

    assert [record.error for record in measured.records] == [None] * 3
    assert server.bodies[-1]["messages"] == [
        {"role": "user", "content": "q1"},
        {"role": "assistant", "content": "answer 1"},
        {"role": "user", "content": "q2"},
        {"role": "assistant", "content": "answer 2"},
        {"role": "user", "content": "q3"},
    ]


async def test_a_turn_is_due_after_the_answer_and_its_delay() -> None:
    """In an open loop, too: the delay is the reader's, not the server's."""
    async with scribe() as server:
        measured = await replay_once(arm(server), Part(1, 0.0, 1.0, TALK), inputs())

    first, second, third = measured.records
    assert second.due_s == pytest.approx(first.end_s + DELAY_S, abs=1e-6)
    assert third.due_s == pytest.approx(second.end_s + DELAY_S, abs=1e-6)
    assert second.sent_s >= second.due_s


async def test_recorded_answers_are_sent_instead() -> None:
    """Where the file's own are asked for."""
    talk = (a_turn("q1", answer="as recorded"), a_turn("q2", delay_s=0.0))
    async with scribe() as server:
        await replay_once(arm(server), Part(1, 0.0, 1.0, talk), inputs())

    assert server.bodies[1]["messages"][1] == {"role": "assistant", "content": "as recorded"}


@pytest.mark.parametrize(
    ("api", "expected"),
    [
        (Api.COMPLETIONS, {"prompt": "q1\nanswer 1\nq2\nanswer 2\nq3"}),
        (Api.EMBEDDINGS, {"input": "q1\n\nq2\n\nq3"}),
    ],
)
async def test_an_api_without_roles_gets_one_text(api: Api, expected: dict[str, str]) -> None:
    """What was said, line by line; an embedding says nothing."""
    async with scribe() as server:
        measured = await replay_once(arm(server), Part(1, 0.0, 1.0, TALK), inputs(api))

    assert [record.error for record in measured.records] == [None] * 3
    assert {k: server.bodies[-1][k] for k in expected} == expected


async def test_responses_take_the_conversation_as_input() -> None:
    """A list of messages, from the second turn on."""
    async with scribe() as server:
        measured = await replay_once(arm(server), Part(1, 0.0, 1.0, TALK), inputs(Api.RESPONSES))

    assert [record.completion_tokens for record in measured.records] == [2, 2, 2]
    assert server.requests[0][0] == "/v1/responses"
    assert [one["content"] for one in server.bodies[1]["input"]] == ["q1", "answer 1", "q2"]
    assert server.bodies[0]["max_output_tokens"] == 2


async def test_a_conversation_ends_with_a_turn_that_fails() -> None:
    """What could not be sent is recorded as that, so that both arms have the same population."""
    async with scribe(refuses="q2") as server:
        measured = await replay_once(arm(server), Part(1, 0.0, 1.0, TALK), inputs())

    assert [record.error for record in measured.records] == [None, "http 500", SESSION_ENDED]
    assert len(server.bodies) == 2


async def test_a_user_of_a_closed_loop_has_one_conversation_at_a_time() -> None:
    """Two users, four conversations, all turns in order."""
    calls = [
        msgspec.structs.replace(turn, text=f"{turn.text} of {n}", conversation=n, delay_s=after)
        for n in range(4)
        for turn, after in zip(TALK, (None, 0.0, 0.0), strict=True)
    ]
    async with scribe() as server:
        measured = await keep_busy(arm(server), calls, 2, inputs())

    assert len(measured.records) == 12
    for n in range(4):
        own = [record for record in measured.records if record.conversation == n]
        assert [r.sent_s for r in own] == sorted(r.sent_s for r in own)
        assert all(b.sent_s >= a.end_s for a, b in pairwise(own))


async def test_headers_path_and_query_reach_the_server() -> None:
    """In place of ours where they have the same name."""
    headers = {"api-key": "k", "User-Agent": "me", "content-type": "application/json; v=1"}
    given = inputs(path="/openai/deployments/x/chat/completions?api-version=1", headers=headers)
    async with scribe() as server:
        await replay_once(arm(server), Part(1, 0.0, 1.0, TALK[:1]), given)

    ((path, got, _),) = server.requests
    assert path == "/openai/deployments/x/chat/completions?api-version=1"
    assert got["api-key"] == "k"
    assert got["user-agent"] == "me"
    assert got["content-type"] == "application/json; v=1"


async def test_embeddings_are_answers_without_tokens() -> None:
    """They have an end and a prompt; what they generate is unknown, not 0."""
    call = Call(at_s=0.0, model="m", prompt_tokens=33, output_tokens=1, blocks=(1,))
    async with scribe() as server:
        part = Part(1, 0.0, 1.0, (call,))
        measured = await replay_once(arm(server), part, inputs(Api.EMBEDDINGS))

    (record,) = measured.records
    assert (record.error, record.prompt_tokens, record.completion_tokens) == (None, 33, None)
    assert len(server.bodies[0]["input"]) == 33
    assert set(server.bodies[0]) == {"model", "input"}


@pytest.mark.parametrize("template", [0, 8, 57])
@pytest.mark.parametrize(
    ("count", "error"),
    [
        (lambda text: len(text.split()), 0),
        (lambda text: len(text.encode()), 0),
        (lambda text: -(-len(text) // 2), 1),
        (lambda text: 2 * len(text.split()), 1),
    ],
    ids=["words", "bytes", "two characters", "two a word"],
)
@pytest.mark.parametrize("tokens", [70, 512, 3000])
async def test_text_prompts_have_the_length_that_is_asked(
    count: Any, error: int, template: int, tokens: int
) -> None:
    """By the server's own count, whatever it takes for a token and its template adds."""
    call = Call(at_s=0.0, model="m", prompt_tokens=tokens, output_tokens=2, blocks=tuple(range(9)))
    async with scribe(count=count, template_tokens=template) as server:
        endpoint = Endpoint(shape=RequestShape(api=Api.CHAT))
        scales = await learn_text_scales(server.url, ["m"], endpoint, 8_192)
        shape = msgspec.structs.replace(endpoint.shape, scales=scales)
        body = PromptBook(1, shape).body(call)
    content = msgspec.json.decode(body)["messages"][0]["content"]

    assert abs(count(content) + template - tokens) <= error
