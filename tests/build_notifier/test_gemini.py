"""What Gemini is asked, and what its answers mean."""

from typing import Any

import pytest
from google.genai import types

from build_notifier.gemini import MAX_ANALYSIS_CHARS, analysis_of, generation_config


def _answer(**fields: Any) -> types.GenerateContentResponse:
    return types.GenerateContentResponse.model_validate(fields)


def _candidate(reason: str, *parts: dict[str, Any]) -> types.GenerateContentResponse:
    content = {"role": "model", "parts": list(parts)} if parts else None
    return _answer(candidates=[{"content": content, "finishReason": reason}])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (_candidate("STOP", {"text": "The disk is full."}), "The disk is full."),
        (_candidate("STOP", {"text": "hm", "thought": True}, {"text": "Full."}), "Full."),
        (_candidate("MAX_TOKENS", {"text": "The disk"}), "The disk [cut]"),
        (_candidate("MAX_TOKENS", {"text": "hm", "thought": True}), "output tokens for thinking"),
        (_candidate("SAFETY"), "safety filter withheld the answer (SAFETY)"),
        (_candidate("RECITATION"), "recitation (RECITATION)"),
        (_candidate("SPII"), "stopped without text (SPII)"),
        (_candidate("STOP"), "answered without text"),
        (_answer(candidates=[]), "no candidate"),
        (_answer(promptFeedback={"blockReason": "SAFETY"}), "refused the prompt (SAFETY)"),
    ],
)
def test_answers_without_text_are_told_apart(
    answer: types.GenerateContentResponse, said: str
) -> None:
    """A reader sees whether to raise a limit, to look at the log, or to wait."""
    assert said in analysis_of(answer)


def test_a_long_answer_is_cut() -> None:
    """A notification is no essay."""
    long = _candidate("STOP", {"text": "x" * 10_000})

    assert len(analysis_of(long)) <= MAX_ANALYSIS_CHARS + 10


@pytest.mark.parametrize("model", ["gemini-3.8-flash", "gemini-3.5-flash-lite", "gemini-2.5-pro"])
def test_thinking_is_bounded(model: str) -> None:
    """By a level, or by a budget below the limit of the output where a model has no levels."""
    config = generation_config(model)

    thinking = config.thinking_config
    assert thinking is not None
    assert config.max_output_tokens is not None
    if thinking.thinking_budget is None:
        assert thinking.thinking_level is types.ThinkingLevel.LOW
    else:
        assert thinking.thinking_budget < config.max_output_tokens / 2


def test_a_model_that_does_not_think_is_not_told_to() -> None:
    """It would refuse the request."""
    assert generation_config("gemini-2.0-flash").thinking_config is None
