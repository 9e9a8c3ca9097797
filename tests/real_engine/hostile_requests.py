"""Requests that no client means to send: wrong types, numbers beyond every range.  Pure."""

from collections.abc import Iterator
from typing import Any

WHOLE_FLOATS = (3.0, 7.0, 0.0, -0.0)
NUMBERS = (*WHOLE_FLOATS, 0.5, -1, 0, 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), 10**40)
ODD: tuple[Any, ...] = (
    *NUMBERS,
    1e308,
    -1e308,
    True,
    False,
    None,
    "",
    "7",
    "x" * 10_000,
    [],
    [1],
    {},
    {"a": 1},
)

# Fields of /v1/completions that reach the engine's core, or the arithmetic on the way to it.
FIELDS = (
    "max_tokens",
    "min_tokens",
    "seed",
    "n",
    "best_of",
    "logprobs",
    "prompt_logprobs",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "length_penalty",
    "stop",
    "stop_token_ids",
    "bad_words",
    "logit_bias",
    "allowed_token_ids",
    "truncate_prompt_tokens",
    "priority",
    "echo",
    "ignore_eos",
    "skip_special_tokens",
    "structured_outputs",
    "response_format",
    "prompt",
    "prompt_embeds",
    "suffix",
    "user",
    "stream_options",
    "vllm_xargs",
    "kv_transfer_params",
    "cache_salt",
    "request_id",
    "repetition_detection",
    "thinking_token_budget",
)

# What a field of the right type can still ask for.
SHARP: tuple[tuple[str, Any], ...] = (
    ("n", 100_000),
    ("logprobs", 1_000_000),
    ("prompt_logprobs", -1),
    ("stop_token_ids", [2**70, -5]),
    ("stop_token_ids", [3.0]),
    ("allowed_token_ids", [10**9]),
    ("allowed_token_ids", [-1]),
    ("logit_bias", {"99999999": 5}),
    ("logit_bias", {"-1": 5}),
    ("logit_bias", {"1": 1e308}),
    ("prompt", [10**9]),
    ("prompt", [-1]),
    ("prompt", [2**70]),
    ("prompt", [1.0, 2.0]),
    ("prompt", [[]]),
    ("prompt", [[1], []]),
    ("prompt", "\ud800"),
    ("prompt", "\x00" * 100),
    ("bad_words", [""]),
    ("bad_words", ["\x00"]),
    ("stop", [""]),
    ("stop", ["a"] * 10_000),
    ("structured_outputs", {"regex": "(a+)+$"}),
    ("structured_outputs", {"regex": "("}),
    ("structured_outputs", {"grammar": "root ::= root"}),
    ("structured_outputs", {"choice": []}),
    ("structured_outputs", {"json": {"$ref": "#"}}),
    (
        "response_format",
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": "#"}}},
    ),
    ("min_tokens", 10**9),
    ("vllm_xargs", {"a": 2**70}),
    ("cache_salt", "x" * 100_000),
    ("request_id", "\x00"),
)


def hostile_bodies(model: str) -> Iterator[dict[str, Any]]:
    """Yield each body; all but one field are those of a plain request."""
    plain = {"model": model, "prompt": "hi", "max_tokens": 2}
    for field in FIELDS:
        for value in ODD:
            yield {**plain, field: value}
    for field, value in SHARP:
        yield {**plain, field: value}
        yield {**plain, field: value, "stream": True}
    # Two at once: a check of one may stand on the other.
    for seed in NUMBERS:
        yield {**plain, "seed": seed, "temperature": 1.0, "n": 2}
        yield {**plain, "seed": seed, "max_tokens": 3.0, "min_tokens": 1.0}
