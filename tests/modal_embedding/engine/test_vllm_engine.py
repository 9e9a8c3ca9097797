from types import SimpleNamespace
from typing import Any

import pytest

from modal_embedding.engine.vllm_engine import VllmPooling
from modal_embedding.messages.protocol import TextTooLong
from servekit.errors.tree import EngineExited


class EngineDeadError(Exception):
    """Named as vLLM's own, which is not installed here."""


class FakeLlm:
    """`vllm.LLM`, as far as we use it: one token for each word, its number as the vector."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.calls: list[str] = []

    def get_tokenizer(self) -> Any:
        return lambda texts: {"input_ids": [list(range(len(text.split()))) for text in texts]}

    def embed(self, prompts: list[dict[str, list[int]]], *, use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        self.calls.append("embed")
        if self.failure is not None:
            raise self.failure
        sizes = [float(len(prompt["prompt_token_ids"])) for prompt in prompts]
        return [SimpleNamespace(outputs=SimpleNamespace(embedding=[size])) for size in sizes]

    def sleep(self, level: int) -> None:
        self.calls.append(f"sleep {level}")

    def wake_up(self) -> None:
        self.calls.append("wake_up")


def test_texts_are_read_once_and_counted() -> None:
    """The engine gets tokens, and the caller learns how many there were."""
    embedded = VllmPooling(FakeLlm(), 10, can_sleep=True).embed(["a b c", "d"])

    assert embedded.vectors.tolist() == [[3.0], [1.0]]
    assert embedded.tokens == 4


def test_a_text_that_is_too_long_never_reaches_the_engine() -> None:
    """Its index and both counts are known before."""
    llm = FakeLlm()

    with pytest.raises(TextTooLong, match="text 1 has 3 tokens and the model reads 2"):
        VllmPooling(llm, 2, can_sleep=True).embed(["a", "b c d"])

    assert llm.calls == []


def test_a_dead_engine_is_told_as_such() -> None:
    """So that the container can end with it."""
    with pytest.raises(EngineExited, match="core died"):
        VllmPooling(FakeLlm(EngineDeadError("core died")), 9, can_sleep=True).embed(["a"])


def test_other_failures_are_left_as_they_are() -> None:
    """They are not ours to name."""
    with pytest.raises(ValueError, match="else"):
        VllmPooling(FakeLlm(ValueError("else")), 9, can_sleep=True).embed(["a"])


@pytest.mark.parametrize(("can_sleep", "calls"), [(True, ["sleep 1", "wake_up"]), (False, [])])
def test_only_an_engine_that_can_sleep_is_put_to_sleep(can_sleep: bool, calls: list[str]) -> None:
    """vLLM on a CPU cannot."""
    llm = FakeLlm()
    engine = VllmPooling(llm, 9, can_sleep=can_sleep)

    engine.sleep()
    engine.wake()

    assert llm.calls == calls
