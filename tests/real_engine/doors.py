"""Where requests enter an engine, and random hostile ones for each of these doors.  Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.real_engine.hostile_requests import FIELDS, ODD, SHARP

# Of any door: a wrong value in the right place, and the right one in a wrong shape.
_TEXTS = ("", " ", "\x00", "\ud800", "a" * 5000, "\N{BOM}", "\u202e", "{{ 7 * 7 }}", "%s%n", "../x")
_NESTED: Any = [[[[[[[[[[[[]]]]]]]]]]]]


@dataclass(frozen=True, slots=True)
class Door:
    """One route.

    Attributes:
        plain: a request that it answers.
        within: the field of *plain* that holds the arguments; empty for *plain* itself.
        fields: what may be changed.
        sharp: fields with values that are of the right type and hostile all the same.
    """

    path: str
    plain: Mapping[str, Any]
    fields: tuple[str, ...]
    sharp: tuple[tuple[str, Any], ...] = ()
    within: str = ""


PREDICTIONS = Door(
    "/predictions",
    {"input": {"prompt": "hi", "max_tokens": 2}},
    (
        *("prompt", "system_prompt", "min_tokens", "max_tokens", "temperature", "top_p", "top_k"),
        *("presence_penalty", "frequency_penalty", "stop_sequences", "prompt_template", "seed"),
        *("json_schema", "unknown", "seed", "max_tokens", "min_tokens"),
    ),
    (
        ("max_tokens", 3.0),
        ("seed", 7.0),
        ("seed", 2**64),
        ("min_tokens", 2.0),
        ("prompt", "word " * 5000),
        ("prompt_template", "{prompt}{prompt}{system_prompt}"),
        ("prompt_template", "{prompt.__class__}"),
        ("prompt_template", "{0}"),
        ("prompt_template", "{{{{"),
        ("prompt_template", "LLAMA_3_INSTRUCT"),
        ("stop_sequences", "," * 1000),
        ("stop_sequences", "\x00,\ud800"),
        ("json_schema", '{"type": "object"}'),
        ("json_schema", '{"$ref": "#"}'),
        ("json_schema", '{"type": "nonsense"}'),
        ("json_schema", '{"pattern": "(a+)+$", "type": "string"}'),
        ("json_schema", '{"type": "string", "pattern": "("}'),
        ("json_schema", '{"enum": []}'),
        ("json_schema", '{"minimum": 1e400, "type": "number"}'),
        ("json_schema", "[" * 3000),
        ("json_schema", json.dumps({"type": "array", "minItems": 10**9})),
    ),
    within="input",
)

COMPLETIONS = Door(
    "/v1/completions", {"model": "m", "prompt": "hi", "max_tokens": 2}, FIELDS, SHARP
)

CHAT = Door(
    "/v1/chat/completions",
    {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2},
    (
        *(field for field in FIELDS if field not in ("prompt", "suffix", "best_of", "echo")),
        *("messages", "tools", "tool_choice", "top_logprobs", "max_completion_tokens", "model"),
        *("chat_template", "chat_template_kwargs", "add_generation_prompt", "reasoning_effort"),
        *("continue_final_message", "documents", "mm_processor_kwargs", "parallel_tool_calls"),
    ),
    (
        *(one for one in SHARP if one[0] != "prompt"),
        ("messages", [{}]),
        ("messages", [{"role": "user"}]),
        ("messages", [{"role": "\x00", "content": "hi"}]),
        ("messages", [{"role": "user", "content": [{"type": "text"}]}]),
        ("messages", [{"role": "user", "content": [{"type": "text", "text": "\ud800"}]}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
        (
            "messages",
            [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}],
                }
            ],
        ),
        ("messages", [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}]),
        ("messages", [{"role": "tool", "content": "x", "tool_call_id": 7}]),
        ("messages", [{"role": "user", "content": "x"}] * 500),
        ("tools", [{"type": "function", "function": {"name": "", "parameters": {"$ref": "#"}}}]),
        ("tools", [{"type": "function", "function": {"name": "f", "parameters": {"type": 7}}}]),
        ("tool_choice", {"type": "function", "function": {"name": "absent"}}),
        ("chat_template", "{% for a in range(10**9) %}{% endfor %}"),
        ("chat_template", "{{ ''.__class__.__mro__ }}"),
        ("chat_template_kwargs", {"messages": []}),
        ("top_logprobs", 10**6),
        ("logprobs", True),
    ),
)

EMBEDDINGS = Door(
    "/v1/embeddings",
    {"input": "hi"},
    (
        *("input", "model", "dimensions", "encoding_format", "instruction", "input_type"),
        *("truncate_prompt_tokens", "user", "unknown", "input"),
    ),
    (
        ("input", ["hi"] * 500),
        ("input", ["hi", 7]),
        ("input", [[1, 2], [3]]),
        ("input", [1023]),
        ("input", [1024]),
        ("input", [10**9]),
        ("input", [2**31]),
        ("input", [2**63]),
        ("input", [2**70]),
        ("input", [1.0]),
        ("input", [[]]),
        ("input", [[1], "a"]),
        ("input", ["a", ""]),
        ("input", "word " * 5000),
        ("input", ["\ud800"]),
        ("input", [5] * 2048),
        ("input", [5] * 2049),
        ("dimensions", 64),
        ("dimensions", 65),
        ("dimensions", 2**63),
        ("encoding_format", "base64"),
        ("truncate_prompt_tokens", 1),
        ("truncate_prompt_tokens", 2**31),
        ("truncate_prompt_tokens", 2**70),
        ("input_type", "query"),
    ),
)


def hostile_body(door: Door, rng: Random) -> bytes:
    """Return the body of a request: one to three fields of the plain one changed, or its bytes."""
    plain = {**door.plain, **({door.within: {**door.plain[door.within]}} if door.within else {})}
    arguments = plain[door.within] if door.within else plain
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        field, value = _change(door, rng)
        arguments[field] = value
    if rng.random() < 0.05:
        arguments.pop(rng.choice(list(arguments)))
    if door.within and rng.random() < 0.05:
        plain[door.within] = rng.choice(ODD)
    # NaN and Infinity are none of JSON, and many parsers take them.
    body = json.dumps(plain, ensure_ascii=rng.random() < 0.9).encode("utf-8", "surrogatepass")
    return _wounded(body, rng) if rng.random() < 0.1 else body


def _change(door: Door, rng: Random) -> tuple[str, Any]:
    if door.sharp and rng.random() < 0.3:
        return rng.choice(door.sharp)
    return rng.choice(door.fields), _value(rng)


def _value(rng: Random) -> Any:
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice((float("nan"), float("inf"), -float("inf"), rng.uniform(-3, 3)))
    if kind == 1:
        return rng.choice((1, -1)) * rng.getrandbits(rng.choice((3, 8, 31, 32, 63, 64, 65, 128)))
    if kind == 2:
        return rng.choice(_TEXTS)
    if kind == 3:
        return rng.choice((_NESTED, [rng.choice(ODD)], {"a": rng.choice(ODD)}, [None] * 50))
    return rng.choice(ODD)


def _wounded(body: bytes, rng: Random) -> bytes:
    data = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data) + 1)
        noise = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
        data[place : place + rng.randint(0, 6)] = rng.choice((b"", b'"', b"}", b"\\u0000", noise))
    return bytes(data)
