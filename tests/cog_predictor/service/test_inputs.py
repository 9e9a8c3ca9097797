"""From the caller's inputs to what the engine is told."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cog_predictor.engine.engine import Sampling
from cog_predictor.reporting.error_codes import MinTokensInvalid
from cog_predictor.service.inputs import PredictionInputs, choose_sampling, stop_texts
from cog_predictor.service.startup import WARM_UP
from servekit.errors.tree import PromptTooLong


def _sampling(
    request: PredictionInputs, prompt_tokens: int = 10, max_model_len: int = 100
) -> Sampling:
    return choose_sampling(
        request, prompt_tokens=prompt_tokens, max_model_len=max_model_len, rng=Random(1)
    )


@pytest.mark.parametrize(("asked", "given_to_engine"), [(5, 5), (90, 90), (91, 90), (10**9, 90)])
def test_an_answer_is_cut_to_the_room_that_the_prompt_leaves(
    asked: int, given_to_engine: int
) -> None:
    """A generous max_tokens is no mistake."""
    assert _sampling(replace(WARM_UP, max_tokens=asked)).max_tokens == given_to_engine


@pytest.mark.parametrize("prompt_tokens", [100, 101, 10**6])
def test_a_prompt_without_room_for_an_answer_is_refused_with_both_counts(
    prompt_tokens: int,
) -> None:
    """The caller reads how long the prompt is, and how long it may be."""
    with pytest.raises(PromptTooLong, match=rf"{prompt_tokens} tokens .* takes 100"):
        _sampling(WARM_UP, prompt_tokens)


def test_the_longest_prompt_gets_one_token() -> None:
    """The bound itself is allowed."""
    assert _sampling(WARM_UP, prompt_tokens=99).max_tokens == 1


def test_more_tokens_demanded_than_allowed_are_refused() -> None:
    """min_tokens above max_tokens, or above the room, can never be met."""
    with pytest.raises(MinTokensInvalid, match="min_tokens is 9, but at most 3"):
        _sampling(replace(WARM_UP, min_tokens=9, max_tokens=3))
    with pytest.raises(MinTokensInvalid, match="at most 90"):
        _sampling(replace(WARM_UP, min_tokens=91, max_tokens=512))


@pytest.mark.parametrize(("asked", "told"), [(50, 50), (0, 0), (-1, 0)])
def test_no_top_k_is_zero(asked: int, told: int) -> None:
    """0 and -1 both meant all tokens."""
    assert _sampling(replace(WARM_UP, top_k=asked)).top_k == told


def test_a_seed_is_honoured_and_only_its_absence_draws_one() -> None:
    """0 is a seed like any other."""
    assert _sampling(replace(WARM_UP, seed=0)).seed == 0
    assert _sampling(replace(WARM_UP, seed=7)).seed == 7
    assert _sampling(replace(WARM_UP, seed=None)).seed == Random(1).randint(0, 100_000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        (",", ()),
        ("<end>,<stop>", ("<end>", "<stop>")),
        ("a,,b,", ("a", "b")),
        ("\n", ("\n",)),
        (" a", (" a",)),
    ],
)
def test_stop_sequences_stand_between_commas(text: str, expected: tuple[str, ...]) -> None:
    """An empty one is none; space is text."""
    assert stop_texts(text) == expected


@given(st.text())
def test_no_stop_sequence_is_empty(text: str) -> None:
    """An empty one would end every answer before it began."""
    assert all(stop_texts(text))
