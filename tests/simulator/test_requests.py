"""Every parameter at its bounds: answered, refused as by vLLM, or refused as not simulated."""

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.errors.tree import RequestError
from simulator.parameters import read_parameters
from simulator.prompts import chat_prompt, completion_prompts
from tests.simulator.request_corpus import requests
from tests.simulator.serving import serving

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/vllm/requests_v0.32.0.json").read_text())

# What vLLM takes and we do not: refused by name.
NOT_SIMULATED = (
    "logprobs",
    "prompt_logprobs",
    "response_format",
    "structured_outputs",
    "truncate_prompt_tokens",
    "return_token_ids",
)


async def _answers(bodies: list[tuple[str, Any]]) -> list[tuple[int, Any]]:
    async with serving(model="tiny", max_model_len=2048, speed=1000.0) as client:
        found = []
        for path, body in bodies:
            status, text = await client.post(path, body)
            found.append((status, text if text.startswith("data: ") else json.loads(text)))
        return found


@pytest.fixture(scope="module")
def answers() -> list[tuple[int, Any]]:
    return asyncio.run(_answers([(row["path"], row["body"]) for row in GOLDEN]))


def test_corpus_is_what_was_captured() -> None:
    """A request that is added has to be asked of the real engine too."""
    assert [(row["path"], row["body"]) for row in GOLDEN] == requests("tiny")


def test_each_request_is_answered_as_vllm_does_or_refused_by_name(
    answers: list[tuple[int, Any]],
) -> None:
    """The same status; where vLLM answers and we do not, the error says what is not simulated."""
    wrong = []
    for row, (status, body) in zip(GOLDEN, answers, strict=True):
        if status == row["status"]:
            continue
        refused = status == 400 and "is not simulated" in body["error"]["message"]
        if not (row["status"] == 200 and refused and any(n in row["body"] for n in NOT_SIMULATED)):
            wrong.append((row, status, body))
    assert wrong == []


def test_each_refusal_names_the_parameter_that_vllm_names(answers: list[tuple[int, Any]]) -> None:
    """Type and parameter are vLLM's; of a wrong type, where it is to the field."""
    wrong = []
    for row, (status, body) in zip(GOLDEN, answers, strict=True):
        if row["status"] == 200 or status != row["status"]:
            continue
        error = body["error"]
        if "is not simulated" in error["message"]:
            continue
        expected, found = row["param"], error["param"]
        if row["type"] == "Bad Request":
            expected, found = (".".join((p or "").split(".")[:2]) for p in (expected, found))
        if (error["type"], found) != (row["type"], expected):
            wrong.append((row, error))
    assert wrong == []


def test_range_errors_are_in_the_words_of_vllm(answers: list[tuple[int, Any]]) -> None:
    """Clients look for them: all of SamplingParams' own checks, to the letter."""
    ours = {
        json.dumps(row["body"]): body["error"]["message"]
        for row, (status, body) in zip(GOLDEN, answers, strict=True)
        if status == 400
    }
    theirs = {
        json.dumps(row["body"]): row["message"]
        for row in GOLDEN
        if row.get("type") == "BadRequestError" and "must be" in row["message"]
    }

    assert len(theirs) > 50
    assert {body: ours[body] for body in theirs} == theirs


def test_number_of_choices_is_that_of_vllm(answers: list[tuple[int, Any]]) -> None:
    for row, (status, body) in zip(GOLDEN, answers, strict=True):
        if status == 200 and "choices" in row:
            assert len(body["choices"]) == len(row["choices"]), row


_ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        -1,
        1.5,
        math.inf,
        math.nan,
        2**70,
        "",
        "x",
        "1",
        "1e400",
        [],
        {},
        [None],
        [[]],
    ),
    *({"type": "text"}, {"type": ["x"]}, {"5": None}, {"function": {"name": [1]}}),
    *([{"role": "user", "content": [None]}], [{"role": "user", "content": [{"type": []}]}]),
)
_FIELDS = sorted({name for _, body in requests("m") for name in body})


@given(
    raw=st.dictionaries(st.sampled_from(_FIELDS), st.sampled_from(_ODD), max_size=4),
    chat=st.booleans(),
)
def test_any_body_is_read_or_refused(raw: dict[str, Any], chat: bool) -> None:
    """Whatever a field holds, nothing but a refusal is raised."""
    try:
        read_parameters(raw, chat=chat)
        if chat:
            chat_prompt("m", raw.get("messages", ""), 16, 0)
        else:
            completion_prompts(raw.get("prompt"), 16, 0)
    except RequestError:
        return


# What the answers are.


async def _ask(path: str, **fields: object) -> Any:
    async with serving(speed=1000.0) as client:
        return await client.ask(path, **fields)


async def _stream(path: str, **fields: object) -> list[Any]:
    async with serving(speed=1000.0) as client:
        body = {"model": client.server.spec.model, "stream": True, **fields}
        text = (await client.post(path, body))[1]
        events = [line.removeprefix("data: ") for line in text.split("\n") if line]
        assert events.pop() == "[DONE]"
        return [json.loads(event) for event in events]


def _text(events: list[Any], index: int = 0) -> str:
    found = [c for event in events for c in event["choices"] if c["index"] == index]
    return "".join(c["text"] if "text" in c else c["delta"].get("content") or "" for c in found)


LONG = {"prompt": "x", "max_tokens": 12, "ignore_eos": True}


def test_n_answers_to_each_prompt() -> None:
    """Numbered one after another; the prompt counts once."""
    answer = asyncio.run(
        _ask("/v1/completions", prompt=["aaaa", "bbbbbbbb"], n=3, max_tokens=2, ignore_eos=True)
    )

    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    assert answer["usage"]["prompt_tokens"] == 3
    assert answer["usage"]["completion_tokens"] == 12


def test_answers_to_one_prompt_end_apart() -> None:
    """Each draws its own length."""
    answer = asyncio.run(_ask("/v1/completions", prompt="x", n=8, max_tokens=4000))

    assert len({choice["text"] for choice in answer["choices"]}) > 4


@pytest.mark.parametrize(
    ("stop", "text", "tokens"),
    [
        ("fox", " the quick brown ", 4),
        ("ox j", " the quick brown f", 5),
        (["dog", "brown"], " the quick ", 3),
        ("the", " ", 1),
        (". the", " the quick brown fox jumps over a lazy dog", 11),
        ("absent", " the quick brown fox jumps over a lazy dog. the quick", 12),
    ],
)
def test_a_stop_string_ends_the_answer(stop: object, text: str, tokens: int) -> None:
    """Its text is left out, its tokens count; a stream says the same."""
    answer = asyncio.run(_ask("/v1/completions", **LONG, stop=stop))
    events = asyncio.run(_stream("/v1/completions", **LONG, stop=stop))

    (choice,) = answer["choices"]
    stopped = "absent" not in str(stop)
    assert choice["text"] == _text(events) == text
    assert answer["usage"]["completion_tokens"] == len(events) == tokens
    assert choice["finish_reason"] == ("stop" if stopped else "length")
    last = events[-1]["choices"][0]
    assert last["finish_reason"] == choice["finish_reason"]
    assert last["stop_reason"] == choice["stop_reason"]
    assert (choice["stop_reason"] is not None) == stopped


def test_a_stop_string_can_be_kept() -> None:
    answer = asyncio.run(
        _ask("/v1/completions", **LONG, stop="fox", include_stop_str_in_output=True)
    )

    assert answer["choices"][0]["text"] == " the quick brown fox"
    assert answer["choices"][0]["stop_reason"] == "fox"


def test_a_stop_string_waits_for_min_tokens() -> None:
    answer = asyncio.run(_ask("/v1/completions", **LONG, stop="quick", min_tokens=5))

    assert answer["usage"]["completion_tokens"] == 12
    assert answer["choices"][0]["text"].endswith(". the ")


def test_echo_begins_with_the_prompt() -> None:
    """In a stream with the first token; with max_tokens 0 nothing follows it."""
    plain = asyncio.run(_ask("/v1/completions", prompt="Once", max_tokens=2, echo=True))
    none = asyncio.run(_ask("/v1/completions", prompt="Once", max_tokens=0, echo=True))
    events = asyncio.run(_stream("/v1/completions", prompt="Once", max_tokens=2, echo=True))

    assert plain["choices"][0]["text"] == _text(events) == "Once the quick"
    assert events[0]["choices"][0]["text"] == "Once the"
    assert none["choices"][0]["text"] == "Once"
    assert none["usage"]["completion_tokens"] == 1


def test_echo_of_token_ids_is_not_simulated() -> None:
    async def ask() -> tuple[int, str]:
        async with serving() as client:
            body = {"model": client.server.spec.model, "prompt": [1, 2], "echo": True}
            return await client.post("/v1/completions", body)

    status, text = asyncio.run(ask())

    assert status == 400
    assert "echo of token ids is not simulated" in text


def test_a_chat_ends_at_a_stop_string_too() -> None:
    messages = [{"role": "user", "content": "x"}]
    events = asyncio.run(
        _stream("/v1/chat/completions", messages=messages, stop=["jumps"], ignore_eos=True)
    )

    assert _text(events) == " the quick brown fox "
    assert events[-1]["choices"][0]["stop_reason"] == "jumps"
