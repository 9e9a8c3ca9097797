"""`pytest tests/unit`, in the folder that `cog build` takes: how a prompt is written."""

import pytest

from cog_predictor.prompts.choice import choose_prompts
from cog_predictor.prompts.named import NAMED

JINJA = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("request_template", "config_template", "tokenizer_template", "text"),
    [
        ("> {prompt}", JINJA, JINJA, "> hi"),
        ("", "LLAMA_2_INSTRUCT", JINJA, NAMED["LLAMA_2_INSTRUCT"]),
        ("", None, JINJA, "<system>be brief<user>hi"),
        ("", None, None, "<s>hi"),
    ],
)
def test_a_template_is_taken_from_the_first_that_has_one(
    request_template: str, config_template: str | None, tokenizer_template: str | None, text: str
) -> None:
    """The request's, then the configuration's, then the tokenizer's, then COMPLETION."""
    prompts = choose_prompts(config_template=config_template, tokenizer_template=tokenizer_template)

    written = prompts.write(prompt="hi", system_prompt="be brief", prompt_template=request_template)

    assert written.text == text.replace("{prompt}", "hi").replace("{system_prompt}", "be brief")
