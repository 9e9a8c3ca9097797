"""Filling a caller's format string."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cog_predictor.prompts.fields import fill_fields
from servekit.errors.tree import RequestError, TemplateInvalid, TemplateLacksPrompt


def _fill(template: str, prompt: str = "hi") -> str:
    return fill_fields(template, prompt=prompt, system_prompt="be kind")


def test_both_fields_are_filled() -> None:
    """The two fields are replaced, and doubled braces become braces."""
    assert _fill("{system_prompt}|{prompt}|{{x}}") == "be kind|hi|{x}"


def test_a_prompt_with_braces_is_not_filled_again() -> None:
    """What a caller writes as prompt is text, whatever it holds."""
    assert _fill("[{prompt}]", prompt="{system_prompt} {0}") == "[{system_prompt} {0}]"


@pytest.mark.parametrize("template", ["Say hello.", "{system_prompt}", '{"json": 1}', "{{prompt}}"])
def test_a_template_that_drops_the_prompt_is_refused(template: str) -> None:
    """A prompt that would not be used is a mistake of the caller, who is told."""
    with pytest.raises(TemplateLacksPrompt, match="dropped"):
        _fill(template)


def test_a_template_may_stand_alone() -> None:
    """Without a prompt there is nothing to drop: the template is the whole text."""
    assert _fill("Say hello.", prompt="") == "Say hello."


@pytest.mark.parametrize(
    "template",
    [
        "{prompt} {",
        "{prompt} }",
        "{prompt} {0}",
        "{prompt} {}",
        "{prompt} {name}",
        "{prompt.__class__}",
        "{prompt[0]}",
        "{prompt!r}",
        "{prompt:>9999999999}",
        "{prompt:{system_prompt}}",
    ],
)
def test_anything_but_the_bare_fields_is_refused(template: str) -> None:
    """Attributes, indices, conversions and paddings are refused, and never evaluated."""
    with pytest.raises(TemplateInvalid, match="cannot be filled"):
        _fill(template)


def test_a_template_longer_than_its_prompt_is_asked_about() -> None:
    """A prompt sent as template is the commonest mistake; the message says how to send it."""
    with pytest.raises(TemplateInvalid, match="sent as prompt_template"):
        _fill('{prompt} {"a": 1}')


@given(template=st.text(), prompt=st.text())
def test_a_template_is_filled_or_refused(template: str, prompt: str) -> None:
    """No text, however strange, raises anything but a RequestError."""
    try:
        text = _fill(template, prompt)
    except RequestError:
        return
    assert prompt in text


@given(prompt=st.text(min_size=1), before=st.text(), after=st.text())
def test_escaped_text_comes_back_as_it_was(prompt: str, before: str, after: str) -> None:
    """Doubling the braces makes any text a template of itself."""

    def escaped(text: str) -> str:
        return text.replace("{", "{{").replace("}", "}}")

    template = escaped(before) + "{prompt}" + escaped(after)

    assert _fill(template, prompt) == before + prompt + after
