"""Were the answers what was asked for?"""

import pytest

from bench.loadgen.record import Record
from bench.report.remarks import remarks
from bench.stats.answers import lengths_of, off_what_was_asked, why_incomparable
from tests.support.records import a_record

ASKED = [a_record()] * 10


def said_of(**changes: object) -> list[str]:
    found = lengths_of([a_record(**changes)] * 10)
    assert found is not None
    return off_what_was_asked(found)


def test_what_was_asked_for_needs_no_words() -> None:
    """Nothing is said of an arm that did as it was told."""
    assert said_of() == []
    assert why_incomparable([ASKED, ASKED], ["a", "b"]) == ""


def test_an_early_stop_is_said() -> None:
    """With both lengths."""
    (said,) = said_of(completion_tokens=2)

    assert said == ("100% of answers stopped early: 2 output tokens on average, 3 were asked for")


@pytest.mark.parametrize(("prompt", "word"), [(3071, "longer"), (20, "shorter")])
def test_prompts_of_another_length_are_said(prompt: int, word: str) -> None:
    """As the upstream counts them."""
    (said,) = said_of(prompt_tokens=prompt)

    assert f"prompts were {word} than asked: {prompt:,} tokens" in said


def test_the_template_of_a_chat_is_not_worth_a_word() -> None:
    """A few tokens more than asked are ordinary."""
    assert said_of(prompt_tokens=130) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"completion_tokens": 2}, "output tokens per request differ: 3 of a, 2 of b"),
        ({"prompt_tokens": 140}, "prompt tokens per request differ: 140 of b, 100 of a"),
    ],
)
def test_arms_that_did_different_work_do_not_compare(
    changes: dict[str, object], words: str
) -> None:
    """An arm that stops early, or has another tokenizer."""
    assert why_incomparable([ASKED, [a_record(**changes)] * 10], ["a", "b"]) == words


def test_what_was_not_counted_is_not_held_against_anybody() -> None:
    """Unknown is not zero: it is not less either."""
    uncounted = [a_record(completion_tokens=None, prompt_tokens=None)] * 10

    assert why_incomparable([ASKED, uncounted], ["a", "b"]) == ""
    assert off_what_was_asked(lengths_of(uncounted) or pytest.fail("no lengths")) == []


def test_failures_keep_the_upstreams_words_once_per_kind() -> None:
    """The commonest words of each kind, with how often the kind came up."""
    failed: list[Record] = [
        *[a_record(error="http 503", detail="busy")] * 3,
        a_record(error="http 503", detail="very busy"),
        a_record(error="reset", detail=""),
    ]

    assert remarks([*ASKED, *failed]) == [
        "4 of 15 requests failed: http 503 (busy)",
        "1 of 15 requests failed: reset",
    ]


def test_odd_answers_are_said_once_per_kind() -> None:
    """With what it means for the measures."""
    odd = [a_record(notices=("buffered",))] * 2

    (said,) = remarks([*ASKED, *odd])

    assert said.startswith("2 of 12 answers: buffered (all tokens came in one read")
