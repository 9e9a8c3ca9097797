"""The four named templates."""

import pytest

from cog_predictor.prompts.fields import fill_fields
from cog_predictor.prompts.named import COMPLETION, LLAMA_2_INSTRUCT, NAMED


def test_the_names_are_those_of_cog_vllm() -> None:
    """Whoever named a template before finds it under the same name."""
    assert list(NAMED) == ["COMPLETION", "LLAMA_2_INSTRUCT", "LLAMA_3_INSTRUCT", "MISTRAL_INSTRUCT"]


@pytest.mark.parametrize("name", NAMED)
def test_every_template_carries_the_prompt_once(name: str) -> None:
    """No template drops the prompt or repeats it."""
    text = fill_fields(NAMED[name], prompt="PROMPT", system_prompt="SYSTEM")

    assert text.count("PROMPT") == 1


@pytest.mark.parametrize("name", [name for name in NAMED if name != "COMPLETION"])
def test_every_instruct_template_carries_the_system_prompt_before_the_prompt(name: str) -> None:
    """An instruct template guides before it asks."""
    text = fill_fields(NAMED[name], prompt="PROMPT", system_prompt="SYSTEM")

    assert 0 < text.index("SYSTEM") < text.index("PROMPT")


def test_completion_only_begins_a_sequence() -> None:
    """A base model continues the prompt itself."""
    assert fill_fields(COMPLETION, prompt="Once", system_prompt="") == "<s>Once"


def test_llama_2_keeps_the_line_breaks_it_was_trained_with() -> None:
    """The markup is exact: a model notices a missing line break."""
    text = fill_fields(LLAMA_2_INSTRUCT, prompt="Hi", system_prompt="Be brief.")

    assert text == "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]"
