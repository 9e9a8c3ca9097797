"""Bodies: exact lengths, real shared prefixes."""

import json

import pytest

from bench.workload.request_bodies import (
    FIRST_TOKEN,
    LAST_TOKEN,
    WORDS,
    Api,
    PromptBook,
    RequestShape,
    block_tokens,
)
from bench.workload.schedule import Call

CHAT = RequestShape(api=Api.CHAT)


def a_call(prompt_tokens: int, *blocks: int, text: str = "") -> Call:
    return Call(
        at_s=0.0,
        model="m",
        prompt_tokens=prompt_tokens,
        output_tokens=7,
        blocks=blocks,
        text=text,
    )


@pytest.mark.parametrize("tokens", [1, 511, 512])
def test_a_prompt_has_exactly_its_tokens(tokens: int) -> None:
    """The last block is cut to the length that the trace says."""
    body = json.loads(PromptBook(1).body(a_call(512 + tokens, 3, 4)))

    expected = [*block_tokens(3, 1).tolist(), *block_tokens(4, 1).tolist()][: 512 + tokens]
    assert body["prompt"] == expected
    assert all(FIRST_TOKEN <= token <= LAST_TOKEN for token in body["prompt"])


def test_the_body_asks_for_exactly_the_output_tokens() -> None:
    """An engine must not stop early: lengths are part of the workload."""
    body = json.loads(PromptBook(1).body(a_call(5, 1)))

    assert body["max_tokens"] == body["min_tokens"] == 7
    assert body["ignore_eos"] is True
    assert body["stream"] is True
    assert body["stream_options"]["include_usage"] is True


def test_equal_blocks_are_equal_prefixes_and_others_are_not() -> None:
    """What shares a hash id in the trace shares tokens, and nothing else does."""
    book = PromptBook(1)
    first, second = (json.loads(book.body(a_call(1024, 0, n)))["prompt"] for n in (1, 2))

    assert first[:512] == second[:512]
    assert first[512:528] != second[512:528]


def test_another_seed_asks_with_other_tokens() -> None:
    """A cache that an earlier run filled is of no use to a run with a seed of its own."""
    first, second = PromptBook(1).body(a_call(64, 0)), PromptBook(2).body(a_call(64, 0))

    assert json.loads(first)["prompt"][:16] != json.loads(second)["prompt"][:16]


def test_written_prompts_stay_words() -> None:
    """A text is sent as it is, to either endpoint."""
    call = a_call(2, text='say "hi"')

    assert json.loads(PromptBook(1).body(call))["prompt"] == 'say "hi"'
    chat = json.loads(PromptBook(1, CHAT).body(call))
    assert chat["messages"] == [{"role": "user", "content": 'say "hi"'}]


@pytest.mark.parametrize("tokens", [1, 33, 512, 3000])
def test_a_chat_has_a_word_for_each_token(tokens: int) -> None:
    """Words that are one token each, in every vocabulary, and four characters with the blank."""
    blocks = range(-(-tokens // 512))

    body = json.loads(PromptBook(1, CHAT).body(a_call(tokens, *blocks)))

    content = body["messages"][0]["content"]
    assert len(content.split()) == tokens
    assert len(content) == 4 * tokens - 1
    assert set(content.split()) <= set(WORDS)


def test_equal_blocks_are_equal_words() -> None:
    """A chat shares prefixes as the trace does, too."""
    book = PromptBook(1, CHAT)
    first, second = (
        json.loads(book.body(a_call(1024, 0, n)))["messages"][0]["content"] for n in (1, 2)
    )

    assert first[: 4 * 512] == second[: 4 * 512]
    assert first != second
