"""Files of prompts, messages, requests and conversations: every format, in its authors' own words.

The rows are those that the formats' documentation shows: ShareGPT's dataset card, OpenAI's guide to
batches, aiperf 0.13's dataset loaders, genai-perf's inputs.json, vLLM's `bench serve` datasets, and
Bailian's README.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.workload.registry import WorkloadSpec, make_schedule
from bench.workload.request_bodies import Api, PromptBook, RequestShape
from bench.workload.schedule import Call, Schedule
from bench.workload.trace_rows import ReadingOptions
from servekit.errors.tree import SettingInvalid, WorkloadInvalid

CHAT = ReadingOptions(api=Api.CHAT)
BAILIAN = {
    "chat_id": 159,
    "parent_chat_id": 55,
    "timestamp": 61.114,
    "input_length": 521,
    "output_length": 132,
    "type": "text",
    "turn": 2,
    "hash_ids": list(range(1089, 1089 + 33)),
}


def schedule_of(
    folder: Path, name: str, content: str | bytes | list[Any], **changes: Any
) -> Schedule:
    """Return what a file asks for; a list is JSON lines, or JSON where the name says so."""
    path = folder / name
    if isinstance(content, list):
        is_json = name.endswith(".json")
        content = (
            json.dumps(content) if is_json else "".join(f"{json.dumps(row)}\n" for row in content)
        )
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    spec = WorkloadSpec(
        workload=str(path),
        shares={"m": 1.0},
        requests=3,
        rate=10.0,
        arrivals="trace",
        seed=1,
        fit=None,
    )
    return make_schedule(msgspec.structs.replace(spec, **changes))


def bodies(schedule: Schedule, api: Api = Api.CHAT) -> list[dict[str, Any]]:
    book = PromptBook(1, RequestShape(api=api))
    return [json.loads(book.body(call)) for call in schedule.calls]


@pytest.mark.parametrize(
    ("row", "prompt", "output"),
    [
        ({"prompt": "What is the capital of India?"}, "What is the capital of India?", 256),
        ({"prompt": "Hello", "output_tokens": 7}, "Hello", 7),
        ({"text": "What is deep learning?", "output_length": 9}, "What is deep learning?", 9),
        ({"texts": ["Who are you?"], "type": "single_turn"}, "Who are you?", 256),
        ({"text_input": "Hello world", "output_length": 4}, "Hello world", 4),
        ({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}, "Hello", 5),
    ],
)
def test_a_line_is_a_prompt(tmp_path: Path, row: dict[str, Any], prompt: str, output: int) -> None:
    """Whichever tool it was written for, and to either endpoint."""
    schedule = schedule_of(tmp_path, "p.jsonl", [row], requests=1, reading=CHAT)

    (chat,) = bodies(schedule)
    (completion,) = bodies(schedule, Api.COMPLETIONS)
    assert chat["messages"] == [{"role": "user", "content": prompt}]
    assert completion["prompt"] == prompt
    assert chat["max_tokens"] == completion["max_tokens"] == output


def test_fields_of_a_request_are_sent(tmp_path: Path) -> None:
    """Those of a line, and aiperf's `extra`, whose keys win."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    row = {"prompt": "p", "temperature": 0.7, "tools": [tool], "extra": {"top_p": 0.9, "seed": 4}}

    (body,) = bodies(schedule_of(tmp_path, "p.jsonl", [row], requests=1, reading=CHAT))

    assert (body["temperature"], body["top_p"], body["seed"]) == (0.7, 0.9, 4)
    assert body["tools"] == [tool]


def test_a_batch_is_sent_as_it_is(tmp_path: Path) -> None:
    """OpenAI's guide: each line has a whole body; nothing is forced that it does not ask for."""
    body = {
        "model": "gpt-3.5-turbo-0125",
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Hello world!"},
        ],
        "max_tokens": 1000,
    }
    row = {"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions", "body": body}

    schedule = schedule_of(tmp_path, "b.jsonl", [row], requests=1, reading=CHAT)

    (sent,) = bodies(schedule)
    assert {k: sent[k] for k in ("messages", "max_tokens")} == {
        k: body[k] for k in ("messages", "max_tokens")
    }
    assert sent["model"] == "m"
    assert set(sent) == {"model", "messages", "max_tokens", "stream", "stream_options"}
    assert schedule.calls[0].output_tokens == 1000


@pytest.mark.parametrize("name", ["payload", "payloads"])
def test_inputs_json_of_genai_perf_and_aiperf(tmp_path: Path, name: str) -> None:
    """Whole requests, in sessions; each is complete, and none waits for what was said."""
    one = {"messages": [{"role": "user", "content": "a"}], "model": "m", "stream": True}
    two = {"messages": [{"role": "user", "content": "b"}], "max_completion_tokens": 3}
    content = json.dumps({"data": [{"session_id": "s", name: [one, two]}]})

    schedule = schedule_of(tmp_path, "inputs.json", content, requests=2, reading=CHAT)

    first, second = bodies(schedule)
    assert first["messages"][0]["content"] == "a"
    assert second["max_completion_tokens"] == 3
    assert [call.delay_s for call in schedule.calls] == [None, 0.0]


def test_sharegpt_is_conversations(tmp_path: Path) -> None:
    """Questions in turn; what has no answer is no turn, and a conversation without one is counted.

    The turn after an answer waits for it; its prompt has what came before.
    """
    talk = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "x" * 40},
        {"from": "gpt", "value": "y" * 400},
        {"from": "human", "value": "z" * 80},
        {"from": "gpt", "value": "w" * 40},
        {"from": "human", "value": "unanswered"},
    ]
    rows = [{"id": "a", "conversations": talk}, {"id": "b", "conversations": talk[:1]}]

    schedule = schedule_of(tmp_path, "s.json", rows, requests=2, reading=CHAT)

    first, second = schedule.calls
    assert (first.output_tokens, second.output_tokens) == (100, 10)
    assert (first.delay_s, second.delay_s) == (None, 0.0)
    assert (first.prompt_tokens, second.prompt_tokens) == (10, 10 + 100 + 20)
    assert [m["role"] for m in first.messages] == ["system", "user"]
    assert (first.answer, second.text) == ("", "z" * 80)
    assert schedule.dropped is not None
    assert schedule.dropped.reasons == {"are conversations without a question and its answer": 1}
    assert (schedule.dropped.rows, schedule.dropped.of_rows) == (1, 3)


def test_recorded_answers_are_kept_on_request(tmp_path: Path) -> None:
    """For what is to be the same in every run."""
    talk = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "said then"}]
    reading = msgspec.structs.replace(CHAT, recorded_answers=True)

    schedule = schedule_of(
        tmp_path, "s.json", [{"conversations": talk}], requests=1, reading=reading
    )

    assert schedule.calls[0].answer == "said then"


@pytest.mark.parametrize(
    "turns",
    [
        ["first", "second", "third"],
        [{"text": "first"}, {"text": "second", "delay": 1500}, {"text": "third", "delay": 1500}],
    ],
)
def test_turns_are_a_conversation(tmp_path: Path, turns: list[Any]) -> None:
    """Spec-Bench's and MT-Bench's texts, aiperf's objects with delays in milliseconds."""
    row = {"turns": turns, "category": "writing", "question_id": 81}
    row = {"turns": turns, "session_id": "s"} if isinstance(turns[0], dict) else row

    schedule = schedule_of(tmp_path, "t.jsonl", [row], reading=CHAT)

    assert [call.text for call in schedule.calls] == ["first", "second", "third"]
    assert schedule.calls[0].delay_s is None
    assert schedule.calls[1].delay_s == (1.5 if isinstance(turns[0], dict) else 0.0)
    assert len({call.conversation for call in schedule.calls}) == 1
    fewer = schedule_of(
        tmp_path,
        "t.jsonl",
        [row],
        requests=2,
        reading=msgspec.structs.replace(CHAT, max_turns=1),
    )
    assert [call.text for call in fewer.calls] == ["first", "first"]


def test_bailians_blocks_have_16_tokens_and_its_times_seconds(tmp_path: Path) -> None:
    """33 hash ids are 521 tokens; two requests share what they share in the trace."""
    later = {**BAILIAN, "timestamp": 63.614, "hash_ids": [*range(1089, 1089 + 32), 7]}

    schedule = schedule_of(tmp_path, "q.jsonl", [BAILIAN, later], requests=2, speed=1.0)

    first, second = schedule.calls
    assert second.at_s - first.at_s == pytest.approx(2.5)
    one, two = (body["prompt"] for body in bodies(schedule, Api.COMPLETIONS))
    assert len(one) == len(two) == 521
    assert one[:512] == two[:512]
    assert one[512:] != two[512:]
    assert first.segments == second.segments
    assert len(first.segments) == 1


def test_blocks_of_another_size_are_noticed(tmp_path: Path) -> None:
    """A trace whose blocks were taken for larger ones would share other prefixes."""
    row = {k: v for k, v in BAILIAN.items() if k not in ("chat_id", "parent_chat_id")}

    with pytest.raises(WorkloadInvalid, match=r"33 hash_ids for 521 tokens .* set --block-size"):
        schedule_of(tmp_path, "q.jsonl", [row])

    reading = ReadingOptions(block_tokens=16)
    assert schedule_of(tmp_path, "q.jsonl", [row], reading=reading).calls[0].block_tokens == 16


def test_a_session_of_lengths_recalls_what_was_said(tmp_path: Path) -> None:
    """aiperf's multi-turn form of Mooncake: each row adds to its session."""
    rows = [
        {"session_id": "abc-123", "input_length": 300, "output_length": 40},
        {"session_id": "abc-123", "delay": 2000, "input_length": 150, "output_length": 20},
    ]

    first, second = schedule_of(tmp_path, "m.jsonl", rows, requests=2).calls

    assert (first.prompt_tokens, second.prompt_tokens) == (300, 300 + 40 + 150)
    assert second.delay_s == 2.0
    said = json.loads(PromptBook(1, RequestShape(api=Api.CHAT)).body(second))["messages"]
    assert len(said[0]["content"].split()) == 150


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a", "image": "/path/1.png"}, "line 1: field 'image' cannot be sent; remove it"),
        ({"prompt": "a", "tools": []}, "'tools' can only be sent with --endpoint-type chat"),
        ({"prompt": "a", "lora": "x"}, "give --ignore-field lora"),
        ({"prompt": "a", "text": "b"}, "exactly one of"),
        ({"prompt": ""}, "must be text that is not empty"),
        ({"prompt": "a", "max_tokens": 0}, "'max_tokens': 0 output tokens; must be at least 1"),
        ({"text": "a", "timestamp": 1, "delay": 2}, "a timestamp or a delay, not both"),
        ({"text": "a", "timestamp": "now"}, "'timestamp' is 'now'"),
        ({"texts": ["a", "b"]}, "'texts' must be text"),
        ({"body": {"prompt": "a"}, "url": "/v1/embeddings"}, "'url' is /v1/embeddings"),
        ({"body": {"prompt": "a", "stream": False}}, "'stream' is False; give --no-streaming"),
        ({"body": {"messages": []}}, "must have 'prompt'; set --endpoint-type"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "not text"),
        ({"text": "a", "role": "system"}, "'role' is 'system'"),
        ({"turns": []}, "'turns' must be a list that is not empty"),
        ({"conversations": [{"role": "user"}]}, "with 'from' and 'value'"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    """In silence it would change the load, and no number would show it."""
    with pytest.raises(WorkloadInvalid) as raised:
        schedule_of(tmp_path, "p.jsonl", [row])

    assert message in str(raised.value)
    assert "line 1" in str(raised.value)


def test_a_field_is_left_out_on_request(tmp_path: Path) -> None:
    """By the name that the error gave."""
    reading = ReadingOptions(ignored_fields=frozenset({"image"}))

    schedule = schedule_of(
        tmp_path, "p.jsonl", [{"text": "a", "image": "x"}], requests=1, reading=reading
    )

    assert schedule.calls[0].text == "a"


def test_models_of_a_file_are_kept_where_they_are_served(tmp_path: Path) -> None:
    """Elsewhere the file is refused, unless the command line says whom to ask."""
    rows = [{"prompt": "a", "model": "m"}, {"prompt": "b", "model": "gpt-4"}]

    with pytest.raises(WorkloadInvalid, match=r"model 'gpt-4', which is not served \(m\)"):
        schedule_of(tmp_path, "p.jsonl", rows, keeps_models=True)

    replaced = schedule_of(tmp_path, "p.jsonl", rows, requests=2)
    assert {call.model for call in replaced.calls} == {"m"}
    both = schedule_of(tmp_path, "p.jsonl", rows, shares={"m": 1, "gpt-4": 1}, keeps_models=True)
    assert [call.model for call in both.calls] == ["m", "gpt-4", "m"]


def test_a_short_file_is_said_again_and_says_so(tmp_path: Path) -> None:
    """A prefix cache answers repeated prompts faster."""
    schedule = schedule_of(tmp_path, "p.txt", "one\n\ntwo\n", requests=5)

    assert [call.text for call in schedule.calls] == ["one", "two", "one", "two", "one"]
    assert "2 requests, and 5 are sent" in schedule.notes[0]
    assert schedule_of(tmp_path, "p.txt", "one\ntwo\n", requests=2).notes == ()


def test_what_is_too_long_is_counted_by_reason(tmp_path: Path) -> None:
    """A conversation ends with the turn that no longer fits."""
    rows = [
        {"turns": [{"text": "a" * 400, "output_length": 50}, {"text": "b" * 400}]},
        {"text": "c" * 4000},
    ]

    schedule = schedule_of(tmp_path, "p.jsonl", rows, requests=1, fit=300)

    assert [call.text[0] for call in schedule.calls] == ["a"]
    assert schedule.dropped is not None
    assert schedule.dropped.reasons == {"longer than 300 tokens": 2}
    assert "2 of 3 requests" in str(schedule.dropped)


def test_a_trace_is_played_at_its_own_speed(tmp_path: Path) -> None:
    """Or twice as fast; a file without times has none."""
    rows = [{"timestamp": 1000 * n, "input_length": 5, "output_length": 5} for n in (3, 5, 9)]

    own = schedule_of(tmp_path, "t.jsonl", rows, speed=1.0, rate=99.0)
    twice = schedule_of(tmp_path, "t.jsonl", rows, speed=2.0)

    assert [call.at_s for call in own.calls] == [0.0, 2.0, 6.0]
    assert [call.at_s for call in twice.calls] == [0.0, 1.0, 3.0]
    for workload in ("synthetic", "default"):
        with pytest.raises(SettingInvalid, match="has no times; give --rate"):
            schedule_of(tmp_path, "t.jsonl", rows, workload=workload, speed=1.0)
    with pytest.raises(SettingInvalid, match="has no times; give --rate"):
        schedule_of(tmp_path, "p.txt", "one\n", speed=1.0)


def test_times_for_some_rows_only_are_refused(tmp_path: Path) -> None:
    """When would the others be due?"""
    with pytest.raises(WorkloadInvalid, match="some rows have a timestamp and some have none"):
        schedule_of(tmp_path, "p.jsonl", [{"text": "a", "timestamp": 1}, {"text": "b"}])


def test_a_file_may_be_gzipped(tmp_path: Path) -> None:
    """Azure's traces of 2025 are."""
    text = "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n2024-10-15 00:00:00.1,0,9,3\n"

    schedule = schedule_of(tmp_path, "a.csv.gz", gzip.compress(text.encode()))

    assert schedule.calls == (
        Call(
            at_s=schedule.calls[0].at_s,
            model="m",
            prompt_tokens=9,
            output_tokens=3,
            blocks=(1,),
            conversation=-1,
        ),
    )
    with pytest.raises(WorkloadInvalid, match="not a whole gzip file"):
        schedule_of(tmp_path, "a.csv.gz", gzip.compress(text.encode())[:20])


def test_turns_follow_their_conversation_into_its_part(tmp_path: Path) -> None:
    """And arrivals are given to what is due by itself."""
    rows = [{"turns": ["a", "b"]} for _ in range(20)]

    schedule = schedule_of(tmp_path, "t.jsonl", rows, requests=40, arrivals="constant")

    begun = {call.conversation: call.at_s for call in schedule.calls if call.delay_s is None}
    assert len(set(begun.values())) == 20
    assert all(call.at_s == begun[call.conversation] for call in schedule.calls)
    assert schedule.length_s == pytest.approx(4.0, abs=0.3)


def test_a_delay_after_nothing_is_refused(tmp_path: Path) -> None:
    """It would be left out in silence; a delay of 0 is none."""
    with pytest.raises(WorkloadInvalid, match=r"'delay' is 1.2 s in a row that follows no other"):
        schedule_of(tmp_path, "p.jsonl", [{"text": "a", "delay": 1200}])

    assert schedule_of(tmp_path, "p.jsonl", [{"text": "a", "delay": 0}]).calls[0].delay_s is None


def test_requests_that_came_at_once_are_sent_at_once(tmp_path: Path) -> None:
    """A trace's own times may all be 0."""
    rows = [{"timestamp": 0, "input_length": 5, "output_length": 5}] * 3

    assert [c.at_s for c in schedule_of(tmp_path, "t.jsonl", rows, speed=1.0).calls] == [0.0] * 3


@pytest.mark.parametrize("content", ['{"data": []}', "[]", '[{"conversations": []}]'])
def test_a_file_without_requests_is_refused(tmp_path: Path, content: str) -> None:
    """Whatever it holds."""
    with pytest.raises(WorkloadInvalid, match="contains no requests that can be sent"):
        schedule_of(tmp_path, "p.json", content)
