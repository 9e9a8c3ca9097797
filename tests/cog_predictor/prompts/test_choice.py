"""The four-step choice of a template."""

import pytest

from cog_predictor.prompts.choice import choose_prompts
from servekit.errors.tree import PromptBlank, TemplateInvalid, TemplateLacksPrompt

CONFIG = "config:{{ messages[-1].content }}"
TOKENIZER = "tokenizer:{{ messages[-1].content }}"


@pytest.mark.parametrize(
    ("request_template", "config", "tokenizer", "expected"),
    [
        ("request:{prompt}", CONFIG, TOKENIZER, "request:hi"),
        ("", CONFIG, TOKENIZER, "config:hi"),
        ("", None, TOKENIZER, "tokenizer:hi"),
        ("", "", TOKENIZER, "tokenizer:hi"),
        ("", None, None, "<s>hi"),
        ("", None, "", "<s>hi"),
        ("request:{prompt}", None, None, "request:hi"),
    ],
)
def test_the_nearest_template_wins(
    request_template: str, config: str | None, tokenizer: str | None, expected: str
) -> None:
    """The request's, then the deployment's, then the tokenizer's, then COMPLETION."""
    prompts = choose_prompts(config_template=config, tokenizer_template=tokenizer)

    written = prompts.write(prompt="hi", system_prompt="", prompt_template=request_template)

    assert written.text == expected


@pytest.mark.parametrize(
    ("config", "tokenizer", "origin"),
    [(CONFIG, TOKENIZER, "config"), (None, TOKENIZER, "tokenizer"), (None, None, "default")],
)
def test_the_origin_is_told(config: str | None, tokenizer: str | None, origin: str) -> None:
    """A log can say which template a deployment uses."""
    prompts = choose_prompts(config_template=config, tokenizer_template=tokenizer)

    assert prompts.origin == origin


def test_a_template_may_be_named() -> None:
    """Request and deployment may name one of the four instead of spelling it out."""
    by_config = choose_prompts(config_template="MISTRAL_INSTRUCT", tokenizer_template=TOKENIZER)

    by_request = by_config.write(prompt="hi", system_prompt="", prompt_template="COMPLETION")

    written = by_config.write(prompt="hi", system_prompt="be kind")

    assert written.text == "<s>[INST] be kind hi [/INST]"
    assert by_request.text == "<s>hi"


def test_only_a_chat_template_is_trusted_to_begin_the_sequence() -> None:
    """A format string may lack the token that begins a sequence; whoever tokenizes must know."""
    prompts = choose_prompts(config_template=CONFIG, tokenizer_template=None)

    assert prompts.write(prompt="hi", system_prompt="").complete
    assert not prompts.write(prompt="hi", system_prompt="", prompt_template="{prompt}").complete


@pytest.mark.parametrize("prompt", ["", " \n\t"])
@pytest.mark.parametrize("tokenizer", [None, TOKENIZER])
def test_a_blank_prompt_is_refused(prompt: str, tokenizer: str | None) -> None:
    """A template's markup around nothing is still nothing."""
    prompts = choose_prompts(config_template=None, tokenizer_template=tokenizer)

    with pytest.raises(PromptBlank, match="blank"):
        prompts.write(prompt=prompt, system_prompt="be kind")


def test_a_template_can_be_the_whole_prompt() -> None:
    """cog-vllm took a request with a template only; it still works."""
    prompts = choose_prompts(config_template=None, tokenizer_template=None)

    written = prompts.write(prompt="", system_prompt="", prompt_template="Say hi.")

    assert written.text == "Say hi."


def test_a_template_that_leaves_a_blank_is_refused() -> None:
    """The formatted prompt counts, not the parts it was made of."""
    prompts = choose_prompts(config_template=None, tokenizer_template=None)

    with pytest.raises(PromptBlank):
        prompts.write(prompt="", system_prompt="", prompt_template="{prompt}\n")


def test_a_request_is_told_what_its_template_lacks() -> None:
    """A template's faults reach the caller as they are."""
    prompts = choose_prompts(config_template=CONFIG, tokenizer_template=None)

    with pytest.raises(TemplateLacksPrompt):
        prompts.write(prompt="hi", system_prompt="", prompt_template="Say hi.")


def test_a_broken_template_stops_the_deployment() -> None:
    """A template that is not Jinja is refused when it is chosen."""
    with pytest.raises(TemplateInvalid):
        choose_prompts(config_template="{% if %}", tokenizer_template=None)
