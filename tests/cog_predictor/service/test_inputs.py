"""From the caller's inputs to what the engine is told."""

import math
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cog_predictor.engine.engine import Sampling
from cog_predictor.reporting.error_codes import MinTokensInvalid
from cog_predictor.service.inputs import PredictionInputs, checked, choose_sampling, stop_texts
from cog_predictor.service.startup import WARM_UP
from servekit.errors.tree import PromptTooLong, RequestInvalid

NUMBERS = st.one_of(st.integers(-4, 4), st.integers(), st.floats(), st.floats(0, 2), st.booleans())
NUMBER_NAMES = (
    *("min_tokens", "max_tokens", "temperature", "top_p", "top_k"),
    *("presence_penalty", "frequency_penalty", "seed"),
)


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


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("max_tokens", 3.5, "max_tokens is 3.5; it is a whole number"),
        ("max_tokens", True, "max_tokens is True; it is a number"),
        ("max_tokens", "3", "max_tokens is '3'; it is a number"),
        ("max_tokens", None, "max_tokens is None; it is a number"),
        ("seed", 2**64, "seed is 1.84467e[+]19; it is between 0 and 9223372036854775807"),
        ("seed", -1, "seed is -1; it is between 0"),
        ("top_k", 10**12, "top_k is 1e[+]12; it is between -1 and 2147483647"),
        ("temperature", math.nan, "temperature is nan; it is between 0.0 and 2.0"),
        ("top_p", math.inf, "top_p is inf; it is between"),
        ("prompt", "half \ud800", "prompt is not Unicode"),
        ("stop_sequences", ["a"], "stop_sequences is .*; it is text"),
        ("json_schema", "nonsense", "json_schema is not JSON"),
        ("json_schema", '{"minItems": 1000000000}', "the JSON schema counts 1e[+]09 items"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(name: str, value: Any, says: str) -> None:
    """It would end the input thread of vLLM's core, and with it every later request."""
    with pytest.raises(RequestInvalid, match=says):
        checked(replace(WARM_UP, **{name: value}))


@given(values=st.fixed_dictionaries(dict.fromkeys(NUMBER_NAMES, NUMBERS)))
def test_what_passes_is_of_the_types_that_vllm_packs(values: dict[str, Any]) -> None:
    """Whatever numbers come in: refused, or integers of 64 bits and finite floats."""
    try:
        found = checked(replace(WARM_UP, **values))
    except RequestInvalid:
        return

    for name in ("min_tokens", "top_k", "seed"):
        assert type(getattr(found, name)) is int
        assert -(2**63) <= getattr(found, name) < 2**63
    for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty"):
        assert type(getattr(found, name)) is float
        assert math.isfinite(getattr(found, name))
