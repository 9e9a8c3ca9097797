"""A sequence is begun once, whoever wrote its prompt."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from cog_predictor.engine.vllm_engine import encode_once_begun
from cog_predictor.prompts.choice import choose_prompts

BEGIN = 1

# As Llama's and Mistral's own begin.
CHAT = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}"


@dataclass(frozen=True, slots=True)
class LlamaTokenizer:
    """Begins every sequence, and reads what begins one in a text as that token, as Llama's does."""

    begin: str = "<s>"

    def encode(self, text: str, *, add_special_tokens: bool) -> Sequence[int]:
        words = re.findall(rf"{re.escape(self.begin)}|\w+", text)
        ids = [BEGIN if word == self.begin else 2 + len(word) for word in words]
        return [BEGIN, *ids] if add_special_tokens else ids


def begun(written: str, *, complete: bool) -> int:
    ids = encode_once_begun(LlamaTokenizer(), written, begin="<s>", complete=complete)
    assert ids[0] == BEGIN
    return ids.count(BEGIN)


@pytest.mark.parametrize("origin", ["config", "tokenizer"])
def test_a_chat_template_begins_the_sequence_itself(origin: str) -> None:
    """The tokenizer adds no second `<s>` to that of the template."""
    prompts = choose_prompts(
        config_template=CHAT if origin == "config" else None,
        tokenizer_template=CHAT if origin == "tokenizer" else None,
        special_tokens={"bos_token": "<s>"},
    )

    written = prompts.write(prompt="hello", system_prompt="be kind")

    assert prompts.origin == origin
    assert begun(written.text, complete=written.complete) == 1


@pytest.mark.parametrize(
    "template",
    ["COMPLETION", "LLAMA_2_INSTRUCT", "MISTRAL_INSTRUCT", "LLAMA_3_INSTRUCT", "<s>Q: {prompt}"],
)
def test_a_template_with_the_token_in_front_is_left_as_it_is(template: str) -> None:
    """The named templates have it, as they had in cog-vllm."""
    prompts = choose_prompts(config_template=None, tokenizer_template=None)

    written = prompts.write(prompt="hello", system_prompt="be kind", prompt_template=template)

    assert begun(written.text, complete=written.complete) == 1


def test_the_template_of_llama_3_begins_with_its_own_token() -> None:
    """Which has another name, and stands behind the older one."""
    begin = "<|begin_of_text|>"
    prompts = choose_prompts(config_template="LLAMA_3_INSTRUCT", tokenizer_template=None)

    written = prompts.write(prompt="hello", system_prompt="be kind")

    tokenizer = LlamaTokenizer(begin)
    ids = encode_once_begun(tokenizer, written.text, begin=begin, complete=written.complete)
    assert ids.count(BEGIN) == 1


@pytest.mark.parametrize("template", ["{prompt}", "Q: {prompt}\nA:"])
def test_a_template_without_the_token_gets_it(template: str) -> None:
    """A caller who writes plain text need not know the model's special tokens."""
    prompts = choose_prompts(config_template=None, tokenizer_template=None)

    written = prompts.write(prompt="hello", system_prompt="", prompt_template=template)

    assert begun(written.text, complete=written.complete) == 1


def test_a_model_without_such_a_token_is_not_given_one() -> None:
    """Qwen's tokenizer has none: it says what special tokens there are."""

    class Plain:
        def encode(self, text: str, *, add_special_tokens: bool) -> Sequence[int]:
            return [5 if add_special_tokens else 6] * len(text.split())

    assert encode_once_begun(Plain(), "two words", begin="", complete=False) == [5, 5]
