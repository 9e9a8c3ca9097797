"""Odd servers, one by one: the shape is somebody's, the data are ours.

`source` says where each shape was seen.  Times are those of odd_server.
"""

import gzip
import json
import zlib
from collections.abc import Iterable
from typing import Any

from tests.support.odd_server import PREFILL_S, STREAM, TOKEN_S, Behaviour, Step

VLLM = "vLLM 0.32 (tests/golden), vllm/entrypoints/openai"
SGLANG = "SGLang, python/sglang/srt/entrypoints/openai/serving_chat.py"
LLAMA_CPP = "llama.cpp, tools/server/server.cpp"
TGI = "text-generation-inference, router/src/server.rs and infer/mod.rs"
AZURE = "https://learn.microsoft.com/azure/foundry/openai/concepts/content-streaming"
OPENAI = "https://platform.openai.com/docs/api-reference/chat-streaming"
RESPONSES = "https://developers.openai.com/api/reference/resources/responses/streaming-events"
MESSAGES = "https://platform.claude.com/docs/en/build-with-claude/streaming"
OPENROUTER = "https://openrouter.ai/docs/api-reference/streaming"
MISTRAL = "https://docs.mistral.ai/capabilities/reasoning/"
PROXY = "proxies between client and engine"
HTTP = "RFC 9110, RFC 9112"
SSE = "https://html.spec.whatwg.org/multipage/server-sent-events.html"

DONE = Step(b"data: [DONE]\n\n")
WORD = " word"
N = 6

TTFT, ANSWER, ITL, E2E, TOKENS = "ttft_s", "answer_s", "token_time_s", "e2e_s", "tokens"
TIMES = (TTFT, ANSWER, ITL)


def data(event: object, kind: str = "") -> bytes:
    named = f"event: {kind}\n" if kind else ""
    return f"{named}data: {json.dumps(event)}\n\n".encode()


def chat(delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    if delta is None:
        del choice["delta"]
    return {"object": "chat.completion.chunk", "model": "m", "choices": [choice], **more}


def usage(completion: int = N, prompt: int = 9, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, **more}


def token(delta: dict[str, Any], *, kind: str = "text", tokens: int = 1, **more: Any) -> Step:
    return Step(data(chat(delta, **more)), TOKEN_S, tokens, kind)


def words(n: int = N, field: str = "content", kind: str = "text") -> list[Step]:
    return [token({field: WORD}, kind=kind) for _ in range(n)]


def later(steps: Iterable[Step]) -> tuple[Step, ...]:
    """*steps*, the first after the time that a prompt takes."""
    first, *rest = steps
    return (Step(first.data, PREFILL_S, first.tokens, first.kind, first.raw), *rest)


ROLE = Step(data(chat({"role": "assistant", "content": ""})))
STOP = Step(data(chat({}, "stop")))
USAGE = Step(data({"object": "chat.completion.chunk", "choices": [], "usage": usage()}))
TAIL = (STOP, USAGE, DONE)


def counted(completion: int, **more: Any) -> Step:
    return Step(data({"choices": [], "usage": usage(completion, **more)}))


def whole(
    body: bytes, kind: str = "application/json", status: str = "200 OK", extra: str = ""
) -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    ).encode()


def answered(
    name: str, source: str, steps: Iterable[Step], *, n: int | None = N, **more: Any
) -> Behaviour:
    return Behaviour(name, source, later(steps), counted=n, **more)


def failed(
    name: str, source: str, steps: Iterable[Step], error: str, says: str = "", **more: Any
) -> Behaviour:
    return Behaviour(name, source, later(steps), error=error, says=says, **more)


def refused(
    name: str,
    source: str,
    status: str,
    body: bytes,
    says: str,
    kind: str = "application/json",
    extra: str = "",
) -> Behaviour:
    head = whole(body, kind, status, extra)
    return Behaviour(
        name,
        source,
        (Step(body, PREFILL_S, raw=True),),
        head=head,
        end=b"",
        error=f"http {status.split()[0]}",
        says=says,
    )


def _plain() -> list[Behaviour]:
    text = [
        Step(
            data(
                {
                    "object": "text_completion",
                    "choices": [{"index": 0, "text": WORD, "finish_reason": None}],
                }
            ),
            TOKEN_S,
            1,
        )
        for _ in range(N)
    ]
    end = Step(
        data(
            {
                "object": "text_completion",
                "choices": [{"index": 0, "text": "", "finish_reason": "length"}],
            }
        )
    )
    filtered = {"hate": {"filtered": False, "severity": "safe"}}
    sglang = {"role": None, "content": WORD, "reasoning_content": None, "tool_calls": None}
    return [
        answered("vllm_chat", VLLM, [ROLE, *words(), *TAIL]),
        answered("vllm_completions", VLLM, [*text, end, USAGE, DONE], path="/v1/completions"),
        # The detokenizer holds back what is half a character; the third token brings all three.
        answered(
            "vllm_held_back",
            VLLM,
            [
                ROLE,
                token({"content": ""}, tokens=0),
                token({"content": ""}, tokens=0),
                token({"content": "né "}, tokens=3),
                *words(3),
                *TAIL,
            ],
            notices=("usage counts more tokens than events",),
        ),
        answered(
            "vllm_stream_interval",
            VLLM,
            [
                ROLE,
                token({"content": WORD}),
                *[token({"content": WORD * 4}, tokens=4) for _ in range(4)],
                STOP,
                counted(17),
                DONE,
            ],
            n=17,
            notices=("usage counts more tokens than events",),
        ),
        answered(
            "sglang_chat",
            SGLANG,
            [
                ROLE,
                *[token(sglang) for _ in range(N)],
                Step(data(chat({**sglang, "content": None}, "stop", matched_stop=2))),
                USAGE,
                DONE,
            ],
        ),
        answered(
            "llama_cpp_chat",
            LLAMA_CPP,
            [
                Step(data(chat({"role": "assistant", "content": None}))),
                *words(),
                Step(data(chat({}, "stop", timings={"predicted_n": N}))),
                USAGE,
                DONE,
            ],
        ),
        answered(
            "llama_cpp_progress",
            LLAMA_CPP,
            [
                *[
                    Step(
                        data(
                            chat(
                                {"role": "assistant", "content": None},
                                prompt_progress={"total": 9, "processed": i},
                            )
                        ),
                        TOKEN_S,
                    )
                    for i in range(3)
                ],
                *words(),
                *TAIL,
            ],
        ),
        answered(
            "tgi_chat",
            TGI,
            [
                *[
                    Step(
                        data(chat({"role": "assistant", "content": WORD}, usage=None)).replace(
                            b"data: ", b"data:"
                        ),
                        TOKEN_S,
                        1,
                    )
                    for _ in range(N)
                ],
                Step(data(chat({"content": ""}, "eos_token"))),
                USAGE,
                DONE,
            ],
        ),
        answered(
            "azure_prompt_filter",
            AZURE,
            [
                Step(
                    data(
                        {
                            "choices": [],
                            "prompt_filter_results": [
                                {"prompt_index": 0, "content_filter_results": filtered}
                            ],
                        }
                    )
                ),
                ROLE,
                *words(),
                *TAIL,
            ],
        ),
        answered(
            "azure_async_filter",
            AZURE,
            [
                ROLE,
                *words(3),
                Step(
                    data(
                        {
                            "choices": [
                                {
                                    "index": 0,
                                    "content_filter_results": filtered,
                                    "content_filter_offsets": {
                                        "check_offset": 1,
                                        "start_offset": 1,
                                        "end_offset": 9,
                                    },
                                    "finish_reason": None,
                                }
                            ]
                        }
                    ),
                    TOKEN_S,
                ),
                *words(3),
                *TAIL,
            ],
        ),
        answered(
            "azure_buffered_filter",
            AZURE,
            [
                ROLE,
                *[token({"content": WORD * 8}, tokens=8) for _ in range(4)],
                STOP,
                counted(32),
                DONE,
            ],
            n=32,
            notices=("usage counts more tokens than events",),
        ),
        answered(
            "openai_obfuscation",
            OPENAI,
            [
                ROLE,
                *[
                    token(
                        {"content": WORD}, usage=None, obfuscation="x" * 7, service_tier="default"
                    )
                    for _ in range(N)
                ],
                *TAIL,
            ],
        ),
        answered(
            "message_repeated_at_the_end",
            PROXY,
            [
                ROLE,
                *words(),
                Step(
                    data(
                        {
                            "choices": [
                                {
                                    "index": 0,
                                    "delta": {},
                                    "message": {"content": WORD * N},
                                    "finish_reason": "stop",
                                }
                            ]
                        }
                    ),
                    TOKEN_S,
                ),
                USAGE,
                DONE,
            ],
        ),
        answered(
            "heartbeats_of_no_text",
            PROXY,
            [ROLE, *[token({"content": ""}, tokens=0) for _ in range(4)], *words(), *TAIL],
        ),
        answered(
            "data_of_nothing",
            SSE,
            [ROLE, Step(b"data:\n\n", TOKEN_S), *words(), STOP, USAGE, Step(b"data: [DONE] \n\n")],
        ),
        answered(
            "comments_before_the_first_token",
            SSE,
            [
                Step(b": ping\n\n", TOKEN_S),
                Step(b": OPENROUTER PROCESSING\n\n", TOKEN_S),
                ROLE,
                *words(),
                *TAIL,
            ],
        ),
    ]


def _kinds() -> list[Behaviour]:
    def thinking(n: int = 4, field: str = "reasoning_content") -> list[Step]:
        return words(n, field, "reasoning")

    def call(arguments: str, name: str | None = None) -> Step:
        function = {"arguments": arguments} | ({"name": name} if name else {})
        return token(
            {
                "tool_calls": [
                    {"index": 0, "id": "call_1", "type": "function", "function": function}
                ]
            },
            kind="tool",
        )

    calls = [call("", "get_weather"), *[call('{"a": 1') for _ in range(5)]]
    legacy = [
        token({"function_call": {"name": "f", "arguments": "{}"}}, kind="tool") for _ in range(N)
    ]
    parts = [
        token(
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": WORD}]}]},
            kind="reasoning",
        )
        for _ in range(3)
    ]
    both = [
        token(
            {
                "content": "",
                "reasoning": WORD,
                "reasoning_details": [{"type": "reasoning.text", "text": WORD}],
            },
            kind="reasoning",
        )
        for _ in range(3)
    ]
    secret = {"completion_tokens_details": {"reasoning_tokens": 40}}
    return [
        answered("reasoning_content_then_text", VLLM, [ROLE, *thinking(), *words(2), *TAIL]),
        answered(
            "reasoning_then_text", VLLM, [ROLE, *thinking(field="reasoning"), *words(2), *TAIL]
        ),
        answered(
            "reasoning_only",
            SGLANG,
            [ROLE, *thinking(N), Step(data(chat({}, "length"))), USAGE, DONE],
        ),
        answered("reasoning_and_details", OPENROUTER, [ROLE, *both, *words(3), *TAIL]),
        answered("reasoning_in_content_parts", MISTRAL, [ROLE, *parts, *words(3), *TAIL]),
        answered(
            "reasoning_inside_the_text",
            LLAMA_CPP,
            [ROLE, token({"content": "<think>"}), *words(5), *TAIL],
            notices=("reasoning inside the text",),
            unknown=(ANSWER,),
        ),
        answered(
            "reasoning_hidden",
            OPENAI,
            [ROLE, *words(), STOP, counted(46, **secret), DONE],
            n=46,
            notices=("hidden reasoning",),
        ),
        answered(
            "reasoning_hidden_and_unsaid",
            PROXY,
            [ROLE, *words(), STOP, counted(400), DONE],
            n=400,
            notices=("hidden tokens",),
            unknown=(ITL,),
        ),
        answered(
            "tool_calls_only", VLLM, [ROLE, *calls, Step(data(chat({}, "tool_calls"))), USAGE, DONE]
        ),
        answered(
            "text_then_tool_calls",
            VLLM,
            [ROLE, *words(2), *calls[:4], Step(data(chat({}, "tool_calls"))), USAGE, DONE],
        ),
        answered(
            "function_call",
            OPENAI,
            [ROLE, *legacy, Step(data(chat({}, "function_call"))), USAGE, DONE],
        ),
        answered("refusal", OPENAI, [ROLE, *words(N, "refusal", "refusal"), *TAIL]),
        answered(
            "two_choices",
            OPENAI,
            [
                ROLE,
                *[
                    Step(
                        data({"choices": [{"index": i % 2, "delta": {"content": WORD}}]}),
                        TOKEN_S,
                        1,
                    )
                    for i in range(N)
                ],
                *TAIL,
            ],
            notices=("several choices",),
            unknown=(ITL,),
        ),
    ]


def _typed() -> list[Behaviour]:
    def deltas(kind: str, n: int, of: str) -> list[Step]:
        return [Step(data({"type": kind, "delta": WORD}, kind), TOKEN_S, 1, of) for _ in range(n)]

    def block(delta: dict[str, Any], of: str = "text") -> Step:
        return Step(
            data(
                {"type": "content_block_delta", "index": 0, "delta": delta}, "content_block_delta"
            ),
            TOKEN_S,
            1,
            of,
        )

    def ended(kind: str = "response.completed", **more: Any) -> Step:
        body = {"status": "completed", "usage": {"input_tokens": 9, "output_tokens": N}, **more}
        return Step(data({"type": kind, "response": body}, kind))

    created = Step(
        data(
            {"type": "response.created", "response": {"status": "in_progress", "usage": None}},
            "response.created",
        )
    )
    text = "response.output_text.delta"
    thought = "response.reasoning_text.delta"
    arguments = "response.function_call_arguments.delta"
    named = Step(
        data(
            {"type": "response.output_item.added", "item": {"type": "function_call", "name": "f"}}
        ),
        TOKEN_S,
        1,
        "tool",
    )
    done = Step(data({"type": "response.output_text.done", "text": WORD * N}))
    start = Step(
        data(
            {
                "type": "message_start",
                "message": {
                    "role": "assistant",
                    "content": [],
                    "usage": {"input_tokens": 9, "output_tokens": 1},
                },
            },
            "message_start",
        )
    )
    ping = Step(data({"type": "ping"}, "ping"))
    stop = Step(
        data(
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn"},
                "usage": {"output_tokens": N},
            },
            "message_delta",
        )
    )
    over = Step(data({"type": "message_stop"}, "message_stop"))
    tool = Step(
        data(
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}},
            }
        ),
        TOKEN_S,
        1,
        "tool",
    )
    failure = ended(
        "response.failed",
        status="failed",
        error={"code": "server_error", "message": "the model broke"},
    )
    cut = ended(
        "response.incomplete", status="incomplete", incomplete_details={"reason": "content_filter"}
    )
    overloaded = Step(
        data(
            {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
            "error",
        )
    )
    return [
        answered(
            "responses_text",
            RESPONSES,
            [created, *deltas(text, N, "text"), done, ended()],
            path="/v1/responses",
        ),
        answered(
            "responses_reasoning",
            RESPONSES,
            [created, *deltas(thought, 3, "reasoning"), *deltas(text, 3, "text"), ended()],
            path="/v1/responses",
        ),
        answered(
            "responses_function_call",
            RESPONSES,
            [created, named, *deltas(arguments, 5, "tool"), ended()],
            path="/v1/responses",
        ),
        failed(
            "responses_failed",
            RESPONSES,
            [created, *deltas(text, 2, "text"), failure],
            "error event",
            "the model broke",
            path="/v1/responses",
        ),
        failed(
            "responses_filtered",
            RESPONSES,
            [created, *deltas(text, 2, "text"), cut],
            "content filter",
            path="/v1/responses",
        ),
        answered(
            "messages_text",
            MESSAGES,
            [
                start,
                ping,
                *[block({"type": "text_delta", "text": WORD}) for _ in range(N)],
                stop,
                over,
            ],
            path="/v1/messages",
        ),
        answered(
            "messages_thinking",
            MESSAGES,
            [
                start,
                *[
                    block({"type": "thinking_delta", "thinking": WORD}, "reasoning")
                    for _ in range(3)
                ],
                *[block({"type": "text_delta", "text": WORD}) for _ in range(3)],
                stop,
                over,
            ],
            path="/v1/messages",
        ),
        answered(
            "messages_tool_use",
            MESSAGES,
            [
                start,
                tool,
                *[
                    block({"type": "input_json_delta", "partial_json": '{"a"'}, "tool")
                    for _ in range(5)
                ],
                stop,
                over,
            ],
            path="/v1/messages",
        ),
        failed(
            "messages_overloaded",
            MESSAGES,
            [start, block({"type": "text_delta", "text": WORD}), overloaded],
            "error event",
            "Overloaded",
            path="/v1/messages",
        ),
    ]


def _ends() -> list[Behaviour]:
    some = [ROLE, *words(3)]
    error = {"error": {"message": "CUDA out of memory", "type": "server_error", "code": 500}}
    oom = "CUDA out of memory"

    def finished(reason: str) -> list[Step]:
        return [*some, Step(data(chat({}, reason))), counted(3), DONE]

    return [
        failed("finish_abort", VLLM, finished("abort"), "aborted"),
        failed("finish_error", VLLM, finished("error"), "error event"),
        failed("finish_content_filter", AZURE, finished("content_filter"), "content filter"),
        answered(
            "finish_length", OPENAI, [ROLE, *words(), Step(data(chat({}, "length"))), USAGE, DONE]
        ),
        answered(
            "finish_unheard_of",
            PROXY,
            [ROLE, *words(), Step(data(chat({}, "network_wobble"))), USAGE, DONE],
            notices=("unknown finish reason",),
        ),
        answered(
            "no_finish_reason", PROXY, [ROLE, *words(), USAGE, DONE], notices=("no finish reason",)
        ),
        failed("error_event", SSE, [*some, Step(data(error, "error")), DONE], "error event", oom),
        failed(
            "error_event_of_text",
            SSE,
            [*some, Step(b"event: error\ndata: upstream went away\n\n")],
            "error event",
            "upstream went away",
        ),
        failed(
            "error_line",
            LLAMA_CPP,
            [*some, Step(b"error: " + json.dumps(error["error"]).encode() + b"\n\n"), DONE],
            "error event",
            oom,
        ),
        failed("error_data", VLLM, [*some, Step(data(error)), DONE], "error event", oom),
        failed(
            "error_string",
            TGI,
            [
                Step(
                    data(
                        {
                            "error": "Request failed during generation: Server error",
                            "error_type": "generation",
                        }
                    ).replace(b"data: ", b"data:")
                )
            ],
            "error event",
            "Request failed during generation",
        ),
        failed(
            "error_in_a_chunk",
            OPENROUTER,
            [
                *some,
                Step(
                    data(
                        {
                            **chat({"content": ""}, "error"),
                            "error": {"code": 502, "message": "Provider disconnected unexpectedly"},
                        }
                    )
                ),
                DONE,
            ],
            "error event",
            "Provider disconnected",
        ),
        failed(
            "error_without_data",
            "FastAPI, an exception after the headers",
            [*some, Step(json.dumps(error).encode() + b"\n\n")],
            "error event",
            oom,
        ),
        failed(
            "error_as_plain_text",
            PROXY,
            [*some, Step(b"data: Internal Server Error\n\n")],
            "malformed",
            "Internal Server Error",
        ),
        failed(
            "error_before_any_token",
            SGLANG,
            [
                Step(
                    data(
                        {"error": {"object": "error", "message": "the queue is full", "code": 503}}
                    )
                ),
                DONE,
            ],
            "error event",
            "the queue is full",
        ),
        answered("no_done", TGI, [ROLE, *words(), STOP, USAGE], notices=("no [DONE]",)),
        failed("no_end_at_all", PROXY, some, "no [DONE]"),
        answered(
            "lingering",
            PROXY,
            [ROLE, *words(), *TAIL, Step(b": still here\n\n", 0.4)],
            notices=("lingering",),
        ),
        answered(
            "usage_comes_late",
            PROXY,
            [ROLE, *words(), STOP, Step(USAGE.data, 0.4), DONE],
            notices=("lingering",),
        ),
        answered(
            "never_closed",
            PROXY,
            [ROLE, *words(), *TAIL],
            hangs=True,
            notices=("lingering", "not closed in order"),
        ),
        answered(
            "closed_without_the_last_chunk",
            HTTP,
            [ROLE, *words(), *TAIL],
            end=b"",
            closes=True,
            notices=("not closed in order",),
        ),
        failed("cut_between_tokens", HTTP, some, "cut", end=b"", closes=True),
        failed(
            "cut_inside_a_chunk",
            HTTP,
            [*some, Step(b'40\r\ndata: {"choi', raw=True)],
            "cut",
            end=b"",
            closes=True,
        ),
        failed(
            "cut_inside_an_event",
            PROXY,
            [*some, Step(b'data: {"choices":[{"delta":{"con')],
            "no [DONE]",
        ),
        answered(
            "last_event_not_ended",
            PROXY,
            [ROLE, *words(), STOP, USAGE, Step(b"data: [DONE]\n")],
            notices=("last event not ended",),
        ),
        answered(
            "tokens_after_done",
            PROXY,
            [ROLE, *words(), *TAIL, Step(data(chat({"content": WORD})))],
            notices=("events after [DONE]",),
        ),
        failed(
            "nothing_generated",
            VLLM,
            [ROLE, STOP, Step(data({"choices": [], "usage": usage(0)})), DONE],
            "empty",
        ),
        failed("counted_but_never_shown", PROXY, [ROLE, STOP, USAGE, DONE], "empty", f"counts {N}"),
        failed(
            "native_shape",
            TGI,
            [
                Step(
                    data(
                        {"token": {"id": 1, "text": WORD, "special": False}, "generated_text": None}
                    ),
                    TOKEN_S,
                )
                for _ in range(3)
            ],
            "no [DONE]",
        ),
    ]


def _counts() -> list[Behaviour]:
    each = [
        Step(data({**chat({"content": WORD}), "usage": usage(i + 1)}), TOKEN_S, 1) for i in range(N)
    ]
    ones = [
        Step(data({**chat({"content": WORD}), "usage": usage(1)}), TOKEN_S, 1) for _ in range(N)
    ]
    half = {"completion_tokens": N, "prompt_tokens": None, "total_tokens": None}
    return [
        answered(
            "no_usage",
            AZURE,
            [ROLE, *words(), STOP, DONE],
            n=None,
            notices=("no usage",),
            unknown=(ITL, TOKENS),
        ),
        answered(
            "usage_null",
            OPENAI,
            [ROLE, *words(), Step(data(chat({}, "stop", usage=None))), DONE],
            n=None,
            notices=("no usage",),
            unknown=(ITL, TOKENS),
        ),
        answered(
            "usage_of_zeros",
            PROXY,
            [ROLE, *words(), STOP, counted(0, prompt=0), DONE],
            n=None,
            notices=("usage of zeros",),
            unknown=(ITL, TOKENS),
        ),
        answered(
            "usage_of_half_zeros",
            PROXY,
            [ROLE, *words(), STOP, counted(N, prompt=0), DONE],
            notices=("usage of zeros",),
        ),
        answered(
            "usage_of_nulls",
            PROXY,
            [ROLE, *words(), STOP, Step(data({"choices": [], "usage": half})), DONE],
        ),
        answered(
            "usage_of_another_shape",
            PROXY,
            [ROLE, *words(), STOP, Step(data({"choices": [], "usage": "6 tokens"})), DONE],
            n=None,
            notices=("no usage",),
            unknown=(ITL, TOKENS),
        ),
        answered("usage_as_it_grows", VLLM, [ROLE, *each, STOP, DONE]),
        answered(
            "usage_of_each_chunk",
            PROXY,
            [ROLE, *ones, STOP, DONE],
            n=None,
            notices=("usage counts fewer tokens than events",),
            unknown=(ITL, TOKENS),
        ),
        answered(
            "usage_with_the_finish",
            TGI,
            [ROLE, *words(), Step(data(chat({}, "stop", usage=usage()))), DONE],
        ),
        answered(
            "usage_before_the_last_token", PROXY, [ROLE, *words(5), USAGE, *words(1), STOP, DONE]
        ),
        answered("usage_as_floats", PROXY, [ROLE, *words(), STOP, counted(6.0, prompt=9.0), DONE]),  # type: ignore[arg-type]
    ]


def _deliveries() -> list[Behaviour]:
    steps = [ROLE, *words(), *TAIL]
    body = b"".join(step.data for step in later(steps))
    at_once = [Step(step.data, 0.0, step.tokens, step.kind) for step in steps]
    threes = [
        Step(step.data, TOKEN_S * 3 if i % 3 == 0 else 0.0, 1) for i, step in enumerate(words(12))
    ]
    crlf = [Step(step.data.replace(b"\n", b"\r\n"), step.after_s, step.tokens) for step in steps]
    split = [
        part
        for step in words()
        for part in (Step(step.data[:30], TOKEN_S), Step(step.data[30:], 0.0, 1))
    ]
    lined = [
        Step(data(chat({"content": WORD})).replace(b', "model"', b'\ndata: , "model"'), TOKEN_S, 1)
        for _ in range(N)
    ]
    flushing = zlib.compressobj(wbits=31)
    packed = [
        Step(flushing.compress(s.data) + flushing.flush(zlib.Z_SYNC_FLUSH), s.after_s, s.tokens)
        for s in later(steps)
    ]
    deflated = zlib.compress(body)
    squeezed = gzip.compress(body)

    def encoded(name: bytes) -> bytes:
        return STREAM.replace(b"\r\n\r\n", b"\r\nContent-Encoding: " + name + b"\r\n\r\n")

    def called(kind: bytes) -> bytes:
        return STREAM.replace(b"text/event-stream", kind)

    answer = json.dumps(
        {
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": WORD * N},
                    "finish_reason": "stop",
                }
            ],
            "usage": usage(),
        }
    ).encode()
    ndjson = b"".join(
        json.dumps({"message": {"content": WORD}, "done": False}).encode() + b"\n" for _ in range(3)
    )
    error = json.dumps({"error": {"message": "no such model"}}).encode()
    page = b"<html><h1>Sign in</h1></html>"
    old = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    sized = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n"
        % len(body)
    )

    def in_one(body: bytes, tokens: int = 0) -> tuple[Step, ...]:
        return (Step(body, PREFILL_S, tokens, raw=True),)

    return [
        answered("all_in_one_read", PROXY, at_once, notices=("buffered",), unknown=(ITL,)),
        answered(
            "three_in_a_read",
            PROXY,
            [ROLE, *threes, STOP, counted(12), DONE],
            n=12,
            notices=("bursts",),
        ),
        answered(
            "one_event_of_all",
            PROXY,
            [ROLE, token({"content": WORD * N}, tokens=N), *TAIL],
            notices=("buffered",),
            unknown=(ITL,),
        ),
        answered(
            "equal_chunks",
            PROXY,
            [
                ROLE,
                *[token({"content": WORD * 3}, tokens=3) for _ in range(5)],
                STOP,
                counted(15),
                DONE,
            ],
            n=15,
            notices=("usage counts more tokens than events",),
        ),
        answered("crlf", SSE, crlf),
        answered("events_cut_in_two", PROXY, [ROLE, *split, *TAIL]),
        answered("byte_order_mark", SSE, [Step(b"\xef\xbb\xbf" + ROLE.data), *steps[1:]]),
        answered("data_on_two_lines", SSE, [ROLE, *lined, *TAIL]),
        Behaviour(
            "gzip_flushed",
            PROXY,
            tuple(packed),
            head=encoded(b"gzip"),
            counted=N,
            notices=("compressed",),
        ),
        Behaviour(
            "gzip_at_the_end",
            PROXY,
            (Step(squeezed, 0.2, N),),
            head=encoded(b"gzip"),
            counted=N,
            notices=("compressed", "buffered"),
            unknown=(ITL,),
        ),
        Behaviour(
            "deflate",
            PROXY,
            (Step(deflated, 0.2, N),),
            head=encoded(b"deflate"),
            counted=N,
            notices=("compressed", "buffered"),
            unknown=(ITL,),
        ),
        failed(
            "brotli",
            PROXY,
            [Step(b"\x0b\x02\x80", 0.02)],
            "content encoding",
            "br",
            head=encoded(b"br"),
        ),
        failed(
            "called_gzip_and_is_none",
            PROXY,
            [Step(body)],
            "content encoding",
            head=encoded(b"gzip"),
        ),
        answered(
            "content_type_of_text",
            PROXY,
            steps,
            head=called(b"text/plain"),
            notices=("content type",),
        ),
        answered(
            "content_type_in_capitals", HTTP, steps, head=called(b"Text/Event-Stream;charset=UTF-8")
        ),
        Behaviour("http_1_0", HTTP, later(steps), head=old, end=b"", closes=True, counted=N),
        Behaviour("stream_of_known_length", HTTP, later(steps), head=sized, end=b"", counted=N),
        answered(
            "choices_null",
            PROXY,
            [Step(data({"choices": None})), *steps],
            notices=("choices: null",),
        ),
        Behaviour(
            "json_for_a_stream",
            PROXY,
            in_one(answer, N),
            head=whole(answer),
            end=b"",
            counted=N,
            notices=("not streamed",),
            unknown=TIMES,
        ),
        Behaviour(
            "error_with_status_200",
            PROXY,
            in_one(error),
            head=whole(error),
            end=b"",
            error="error event",
            says="no such model",
        ),
        Behaviour(
            "page_with_status_200",
            PROXY,
            in_one(page),
            head=whole(page, "text/html"),
            end=b"",
            error="malformed",
            says="Sign in",
        ),
        Behaviour(
            "json_lines",
            "Ollama, /api/chat",
            in_one(ndjson),
            head=whole(ndjson, "application/x-ndjson"),
            end=b"",
            error="malformed",
            says="application/x-ndjson",
        ),
        refused(
            "redirect",
            HTTP,
            "307 Temporary Redirect",
            b"",
            "/v2/chat/completions",
            extra="Location: http://127.0.0.1:9/v2/chat/completions\r\n",
        ),
        refused(
            "too_many",
            OPENAI,
            "429 Too Many Requests",
            b'{"error":{"message":"slow down","code":"rate_limit"}}',
            "slow down",
        ),
        refused(
            "validation",
            "FastAPI",
            "422 Unprocessable Entity",
            b'{"detail":[{"loc":["body"],"msg":"field required"}]}',
            "field required",
        ),
        refused(
            "bad_gateway",
            PROXY,
            "502 Bad Gateway",
            b"<h1>Bad Gateway</h1>",
            "Bad Gateway",
            kind="text/html",
        ),
        refused(
            "busy",
            TGI,
            "503 Service Unavailable",
            b'{"error":"Model is overloaded","error_type":"overloaded"}',
            "Model is overloaded",
        ),
        failed("empty_body", HTTP, [Step(b"", raw=True)], "no [DONE]"),
    ]


BEHAVIOURS: tuple[Behaviour, ...] = (
    *_plain(),
    *_kinds(),
    *_typed(),
    *_ends(),
    *_counts(),
    *_deliveries(),
)
