"""Requests to the two OpenAI endpoints: each parameter at, inside and outside its bounds.  Pure.

`tests/golden/vllm/requests_v0.32.0.json` has what the real vLLM answered to each of them.
"""

from typing import Any

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"

_MESSAGES = [{"role": "user", "content": "Say something."}]
_TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
}
_SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
_IMAGE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGMAAQAABQAB"
)

_STOPS: tuple[Any, ...] = ("a", ["a", "b"], [], "", [""], ["a"] * 20, 3, None, [1])

# Fields that both endpoints take.
_BOTH: tuple[dict[str, Any], ...] = (
    {},
    *({"temperature": value} for value in (0, 1, 2, 2.5, -1, -0.001, "1", "hot", None, True)),
    *({"top_p": value} for value in (1, 0.1, 0, -1, 1.01, "x", None)),
    *({"top_k": value} for value in (0, -1, 5, -2, 1.5, "x")),
    *({"min_p": value} for value in (0, 0.5, 1, -0.1, 1.1)),
    *({"presence_penalty": value} for value in (-2, 2, -2.1, 2.1)),
    *({"frequency_penalty": value} for value in (-2, 2, -2.1, 2.1)),
    *({"repetition_penalty": value} for value in (0.1, 1, 2, 0, -1)),
    *({"seed": value} for value in (0, 1, -1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 1.5, "1")),
    *({"n": value} for value in (1, 2, 3, 0, -1, 1.5, "2", None, 20000)),
    {"n": 2, "temperature": 0},
    *({"max_tokens": value} for value in (1, 7, 0, -1, 3.0, 3.5, "5", "x", None, True, 5000)),
    {"min_tokens": 0},
    {"min_tokens": 3, "max_tokens": 5},
    {"min_tokens": 5, "max_tokens": 5},
    {"min_tokens": 6, "max_tokens": 5},
    {"min_tokens": -1},
    *({"stop": value} for value in _STOPS),
    {"stop_token_ids": [5, 6]},
    {"stop_token_ids": ["x"]},
    {"include_stop_str_in_output": True, "stop": ["a"]},
    {"priority": 0},
    {"priority": 1},
    {"priority": "high"},
    {"stream": True, "stream_options": {"include_usage": True}},
    {"stream": True, "stream_options": {}},
    {"stream": False, "stream_options": {"include_usage": True}},
    {"stream_options": {"include_usage": True}},
    {"stream": "yes"},
    {"stream": "maybe"},
    {"stream": None},
    {"user": "me"},
    {"user": 7},
    {"logit_bias": {"5": 1}},
    {"logit_bias": {"5": 101}},
    {"logit_bias": {"x": 1}},
    {"ignore_eos": True},
    {"ignore_eos": "x"},
    {"skip_special_tokens": False},
    {"truncate_prompt_tokens": 1},
    {"truncate_prompt_tokens": -1},
    {"truncate_prompt_tokens": -2},
    {"truncate_prompt_tokens": 100000},
    {"allowed_token_ids": [5, 6]},
    {"allowed_token_ids": []},
    {"bad_words": ["x"]},
    {"prompt_logprobs": 1},
    {"prompt_logprobs": -2},
    {"prompt_logprobs": 1, "stream": True},
    {"request_id": "mine"},
    {"return_token_ids": True},
    {"unknown_field": 1},
    {"model": "absent"},
    {"model": None},
    {"model": 7},
    {"response_format": {"type": "text"}},
    {"response_format": {"type": "json_object"}},
    {"response_format": _SCHEMA},
    {"response_format": {"type": "json_schema"}},
    {"response_format": {"type": "poem"}},
    {"response_format": "json"},
    {"structured_outputs": {"choice": ["a", "b"]}},
    {"structured_outputs": {"regex": "a+"}},
    {"structured_outputs": {}},
    {"structured_outputs": {"choice": ["a"], "regex": "a"}},
)

_PROMPTS: tuple[Any, ...] = ("", [], [[]], ["a", "b"], [1, 2, 3], [[1], [2, 3]], None)
_ODD_PROMPTS: tuple[Any, ...] = (7, {"a": 1}, ["a", 1], [1.5], [-1], [10**9], [[1], "a"])

_ONLY_COMPLETIONS: tuple[dict[str, Any], ...] = (
    *({"prompt": value} for value in (*_PROMPTS, *_ODD_PROMPTS)),
    {"prompt": "x" * 20000},
    *({"logprobs": value} for value in (0, 1, 5, 21, -1, True, "x")),
    {"logprobs": 2, "stream": True},
    {"echo": True},
    {"echo": True, "max_tokens": 0},
    {"echo": True, "logprobs": 1},
    {"echo": True, "stream": True},
    {"echo": "x"},
    {"best_of": 1},
    {"best_of": 2},
    {"best_of": 2, "n": 3},
    {"suffix": "end"},
    {"suffix": ""},
    {"prompt": ["a", "b"], "n": 2},
    {"prompt_embeds": "x"},
)

_ONLY_CHAT: tuple[dict[str, Any], ...] = (
    {"messages": []},
    {"messages": None},
    {"messages": "hello"},
    {"messages": [{"role": "user"}]},
    {"messages": [{"content": "x"}]},
    {"messages": [{"role": "user", "content": None}]},
    {"messages": [{"role": "wizard", "content": "x"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "smell", "smell": "x"}]}]},
    {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": _IMAGE}}]}
        ]
    },
    {"messages": [{"role": "user", "content": 7}]},
    {"messages": [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]},
    {"messages": [{"role": "system", "content": "x"}, *_MESSAGES]},
    {"max_completion_tokens": 5},
    {"max_completion_tokens": 0},
    {"max_completion_tokens": 4, "max_tokens": 9},
    {"logprobs": True},
    {"logprobs": False},
    {"logprobs": True, "top_logprobs": 2},
    {"logprobs": True, "top_logprobs": 21},
    {"logprobs": True, "top_logprobs": -1},
    {"logprobs": True, "top_logprobs": 2, "stream": True},
    {"top_logprobs": 2},
    {"logprobs": "x"},
    {"tools": []},
    {"tools": [_TOOL]},
    {"tools": [_TOOL], "tool_choice": "none"},
    {"tools": [_TOOL], "tool_choice": "auto"},
    {"tools": [_TOOL], "tool_choice": "required"},
    {"tools": [_TOOL], "tool_choice": {"type": "function", "function": {"name": "look"}}},
    {"tools": [_TOOL], "tool_choice": {"type": "function", "function": {"name": "absent"}}},
    {"tools": [_TOOL], "tool_choice": "sometimes"},
    {"tool_choice": "auto"},
    {"tool_choice": "none"},
    {"tool_choice": "required"},
    {"tools": [{"type": "function"}]},
    {"echo": True},
    {"add_generation_prompt": False},
    {"continue_final_message": True, "add_generation_prompt": True},
    {"continue_final_message": True, "add_generation_prompt": False},
    {"reasoning_effort": "low"},
    {"reasoning_effort": "huge"},
    {"parallel_tool_calls": True},
    {"best_of": 2},
    {"documents": [{"title": "a", "text": "b"}]},
    {"chat_template_kwargs": {}},
    {"chat_template": "{{ messages }}"},
    {"modalities": ["text"]},
    {"audio": {"voice": "x"}},
    {"store": True},
    {"metadata": {"a": "b"}},
    {"service_tier": "auto"},
)


def requests(model: str) -> list[tuple[str, dict[str, Any]]]:
    """Return every (path, body), for an engine that serves *model*."""
    completion = {"model": model, "prompt": "Say something.", "max_tokens": 4}
    chat = {"model": model, "messages": _MESSAGES, "max_tokens": 4}
    return [
        *((COMPLETIONS, completion | fields) for fields in (*_BOTH, *_ONLY_COMPLETIONS)),
        *((CHAT, chat | fields) for fields in (*_BOTH, *_ONLY_CHAT)),
    ]
