"""What counts as the same prompt, and how long it is: as the engine reads it."""

import base64
import json
import struct
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadbalancer.prompt.canonical import PromptFields, ReadPrompt, read_prompt
from loadbalancer.prompt.usage import prompt_tokens_of

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
PARAMETERS = {"type": "object", "properties": {"path": {"type": "string"}}}
TALK = [{"role": "user", "content": "list the files"}, {"role": "assistant", "content": "a b"}]


def prompt(body: Mapping[str, object] | str, model: str = MODEL) -> ReadPrompt:
    text = body if isinstance(body, str) else json.dumps(body)
    return read_prompt(msgspec.json.decode(text, type=PromptFields), model)


def png(width: int, height: int, size: int = 3000) -> str:
    """Return a data URL that begins as a PNG of this size does."""
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height)
    return "data:image/png;base64," + base64.b64encode(head.ljust(size, b"x")).decode()


def with_image(url: str, text: str = "what is this") -> dict[str, object]:
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    return {"messages": [{"role": "user", "content": parts}]}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "tool"]), "content": st.text()}),
    max_size=4,
)


def shuffled(value: object) -> object:
    """Return *value* with the keys of its objects the other way round."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(list(value))}
    return [shuffled(one) for one in value] if isinstance(value, list) else value


@given(talk=messages, tools=st.lists(json_values, max_size=3), indent=st.sampled_from([None, 3]))
def test_prompt_does_not_depend_on_how_its_json_is_written(
    talk: list[object], tools: list[object], indent: int | None
) -> None:
    """Spacing, the order of keys, and escapes are the client's library's."""
    body = {"messages": talk, "tools": tools, "system": "be kind"}
    compact = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    other = json.dumps(shuffled(body), ensure_ascii=True, indent=indent)

    assert prompt(compact) == prompt(other)


@given(body=json_values, key=st.sampled_from(list(PromptFields.__struct_fields__)))
def test_any_field_of_any_type_is_read(body: object, key: str) -> None:
    """What an engine would refuse is left to it."""
    found = prompt({key: body})

    assert found.text_tokens >= 0
    assert found.text_tokens + found.media_tokens + found.token_ids <= len(found.content) // 4 + 1


def test_parts_come_in_the_order_in_which_engines_read_them() -> None:
    """Tools, then the system prompt, then messages, wherever they stand in the body."""
    tools = [{"type": "function", "function": {"name": "ls", "parameters": PARAMETERS}}]
    whole = prompt({"messages": TALK, "system": "you are a shell", "tools": tools}).content

    assert whole.index(b'"ls"') < whole.index(b"you are a shell") < whole.index(b"list the files")


def test_what_all_three_apis_say_alike_is_alike() -> None:
    """OpenAI's messages, Anthropic's, and the items of /v1/responses."""
    chat = {
        "tools": [{"type": "function", "function": {"name": "ls", "parameters": PARAMETERS}}],
        "messages": [{"role": "system", "content": "be kind"}, *TALK],
    }
    anthropic = {
        "tools": [{"name": "ls", "input_schema": PARAMETERS}],
        "system": [{"type": "text", "text": "be kind", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {**one, "content": [{"type": "text", "text": one["content"]}]} for one in TALK
        ],
    }
    responses = {
        "tools": [{"type": "function", "name": "ls", "parameters": PARAMETERS}],
        "instructions": "be kind",
        "input": [
            {**one, "content": [{"type": "input_text", "text": one["content"]}]} for one in TALK
        ],
    }

    assert prompt(chat) == prompt(anthropic) == prompt(responses)


def test_calls_and_results_of_tools_are_alike_in_all_three_apis() -> None:
    """Arguments are JSON in a string, or an object; results are messages, blocks or items."""
    chat: list[object] = [
        {"role": "user", "content": "go"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "function": {"name": "ls", "arguments": '{ "path": "/"}'}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "etc"},
    ]
    responses: list[object] = [
        {"role": "user", "content": "go"},
        {"type": "function_call", "call_id": "9", "name": "ls", "arguments": '{"path":"/"}'},
        {"type": "function_call_output", "call_id": "9", "output": "etc"},
    ]

    assert prompt({"messages": chat}) == prompt({"input": responses})


@pytest.mark.parametrize("field", ["system", "instructions", "tools", "documents"])
def test_fields_beside_the_messages_count(field: str) -> None:
    """30 KB of tools are 7,500 tokens, and another prompt."""
    value: object = "x" * 30_000
    body = {"messages": TALK, field: [{"name": value}] if field == "tools" else value}
    plain = prompt({"messages": TALK})

    assert prompt(body).text_tokens - plain.text_tokens == pytest.approx(7_500, rel=0.01)


def test_image_counts_by_its_size_and_not_by_its_bytes() -> None:
    """1.5 MB of base64 were 500,000 tokens."""
    found = prompt(with_image(png(1024, 1024, 1_500_000)), "Qwen/Qwen2.5-VL-7B-Instruct")

    assert found.media_tokens == pytest.approx((1024 / 28) ** 2, rel=0.03)
    assert found.text_tokens < 20
    assert len(found.content) < 8_000


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("llava-hf/llava-1.5-7b-hf", 576),
        ("google/gemma-3-4b-it", 256),
        ("mistralai/Pixtral-12B-2409", 64 * 65),
        ("OpenGVLab/InternVL3-8B", 256 * 10),
        ("Qwen/Qwen3-VL-8B-Instruct", 1024),
    ],
)
def test_image_counts_as_its_family_counts_it(model: str, tokens: int) -> None:
    """Of a picture of 1,024 pixels square, as the families' processors do."""
    assert prompt(with_image(png(1024, 1024)), model).media_tokens == tokens


def test_images_are_told_apart_by_what_is_in_them_or_by_their_url() -> None:
    """And equal ones share a prefix."""
    one, same, other = (with_image(u) for u in ("http://a/1.png", "http://a/1.png", "http://a/2"))

    assert prompt(one) == prompt(same) != prompt(other)
    assert prompt(with_image(png(64, 64, 100))) != prompt(with_image(png(64, 64, 101)))
    assert prompt(one).media_tokens > 100


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "source": {"type": "base64", "data": "iVBORw0KGgo="}},
        {"type": "input_image", "image_url": "http://a/1.png"},
        {"type": "input_audio", "input_audio": {"data": "UklGR" + "A" * 99_999, "format": "wav"}},
        {"type": "video_url", "video_url": {"url": "http://a/film.mp4"}},
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/!!!"}},
    ],
)
def test_media_of_every_api_is_no_text(part: dict[str, object]) -> None:
    """However it is sent."""
    found = prompt({"messages": [{"role": "user", "content": [part]}]})

    assert found.media_tokens >= 2
    assert found.text_tokens < 10


def test_many_small_images_take_little_memory() -> None:
    """A body of 32 MiB may name half a million."""
    parts = [{"type": "image_url", "image_url": "http://a"}] * 5_000
    found = prompt({"messages": [{"role": "user", "content": parts}]})

    assert len(found.content) < 2_000_000


def test_token_ids_are_counted_as_they_are() -> None:
    """A prompt of token ids needs no estimate."""
    found = prompt({"prompt": list(range(1000))})

    assert (found.token_ids, found.text_tokens, len(found.content)) == (1000, 0, 4000)


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (b"GIF89a" + struct.pack("<HH", 320, 200), (320, 200)),
        (b"\xff\xd8\xff\xe0\0\x04ab\xff\xc0\0\x11\x08" + struct.pack(">HH", 200, 320), (320, 200)),
        (b"RIFF....WEBPVP8X\0\0\0\0\0\0\0\0" + b"\x3f\x01\0\xc7\0\0", (320, 200)),
    ],
)
def test_size_is_read_from_the_head_of_a_picture(head: bytes, size: tuple[int, int]) -> None:
    """GIF, JPEG behind its other segments, and WebP."""
    url = "data:image/x;base64," + base64.b64encode(head.ljust(64, b"\0")).decode()
    found = prompt(with_image(url), "Qwen/Qwen2-VL-7B-Instruct")

    expected = round(size[0] / 28) * round(size[1] / 28)
    assert found.media_tokens == expected // 2 * 2


@pytest.mark.parametrize(
    ("piece", "count"),
    [
        (b'{"choices":[],"usage":{"prompt_tokens":12,"total_tokens":20}}', 12),
        (b'data: {"usage": {"prompt_tokens": 7, "completion_tokens": 0}}\n\ndata: [DONE]\n\n', 7),
        (b'data: {"type":"message_start","message":{"usage":{"input_tokens":9}}}', 9),
        (b'{"text":"\\"usage\\":{\\"prompt_tokens\\":5}"}', None),
        (b'{"usage":null}', None),
        (b'{"usage":{"prompt_tokens":-4}}', None),
        (b"", None),
    ],
)
def test_usage_is_read_from_an_answer(piece: bytes, count: int | None) -> None:
    """Of every API; not from what a model wrote."""
    assert prompt_tokens_of(piece) == count
