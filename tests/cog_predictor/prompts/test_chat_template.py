"""Chat templates in their sandbox."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cog_predictor.prompts.chat_template import ChatTemplate
from servekit.errors.tree import TemplateInvalid

CHATML = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"


def _render(source: str, system_prompt: str = "be kind") -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}).render(
        prompt="hi", system_prompt=system_prompt
    )


def test_turns_are_rendered_in_order() -> None:
    """System, user, then the place where the model answers."""
    assert _render(CHATML) == "<s><|system|>be kind<|user|>hi<|assistant|>"


def test_an_empty_system_prompt_is_still_a_turn() -> None:
    """Without the turn, some templates bring a system prompt of their own."""
    assert _render(CHATML, system_prompt="") == "<s><|system|><|user|>hi<|assistant|>"


@pytest.mark.parametrize(("system_prompt", "expected"), [("be kind", "be kind\n\nhi"), ("", "hi")])
def test_a_template_without_system_turns_gets_one_user_turn(
    system_prompt: str, expected: str
) -> None:
    """Gemma's template refuses a system turn: the texts are merged, and nothing is lost."""
    assert _render(NO_SYSTEM + "{{ messages[0].content }}", system_prompt) == expected


def test_a_template_is_rendered_as_transformers_would() -> None:
    """Block tags leave no line behind, loops can break, and `generation` holds text."""
    source = (
        "{% for m in messages %}\n{% if m.role == 'user' %}{% break %}{% endif %}\n{% endfor %}\n"
        "{% generation %}{{ messages | length }}{% endgeneration %} {{ {'a': '<é>'} | tojson }}"
    )

    assert _render(source) == '2 {"a": "<é>"}'


def test_a_template_may_write_the_date() -> None:
    """Llama 3.1 writes today's date; the day comes from the clock that was given."""
    template = ChatTemplate(
        "{{ strftime_now('%d %b %Y') }}", now=lambda: datetime(2026, 11, 21, tzinfo=UTC)
    )

    assert template.render(prompt="hi", system_prompt="") == "21 Nov 2026"


def test_a_template_that_is_not_jinja_is_refused_when_it_is_built() -> None:
    """Whoever deploys a broken template learns it at once, not with the first request."""
    with pytest.raises(TemplateInvalid, match="not valid Jinja"):
        ChatTemplate("{% for %}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}{{ cycler.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ messages.clear() }}",
        "{% for i in range(999999999) %}{% endfor %}",
        "{{ 1 // 0 }}",
        "{{ nothing.there }}",
        "{{ raise_exception('never') }}",
        "{% include 'secrets' %}",
    ],
)
def test_what_a_template_must_not_do_is_refused(source: str) -> None:
    """The sandbox holds, and a template's own mistakes become one kind of error."""
    with pytest.raises(TemplateInvalid, match="cannot be rendered"):
        _render(source)


@given(st.text(alphabet="{}%# ab.'|()[]", max_size=30))
def test_a_template_is_rendered_or_refused(source: str) -> None:
    """No source raises anything but TemplateInvalid."""
    try:
        _render(source)
    except TemplateInvalid:
        return
