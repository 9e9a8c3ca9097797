"""Choose how a prompt is written for the model.  Pure.

the request's template > the deployment's > the tokenizer's > COMPLETION
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cog_predictor.prompts.chat_template import ChatTemplate
from cog_predictor.prompts.fields import fill_fields
from cog_predictor.prompts.named import COMPLETION, NAMED
from servekit.errors.tree import PromptBlank


class PromptTemplate(Protocol):
    """A way to write a prompt and a system prompt as one text."""

    def render(self, *, prompt: str, system_prompt: str) -> str:
        """Return the text for the model.

        Raises:
            RequestError: the prompt and the template do not fit.
        """


@dataclass(frozen=True, slots=True)
class FieldTemplate:
    """A format string with the fields {prompt} and {system_prompt}."""

    source: str

    def render(self, *, prompt: str, system_prompt: str) -> str:
        return fill_fields(self.source, prompt=prompt, system_prompt=system_prompt)


@dataclass(frozen=True, slots=True)
class Written:
    """A prompt as the model reads it.

    Attributes:
        complete: whether it has its special tokens, such as the one that begins a sequence; a chat
            template writes them, a format string may or may not.
    """

    text: str
    complete: bool


@dataclass(frozen=True, slots=True)
class Prompts:
    """The template of a deployment, which a request may replace.

    Attributes:
        origin: where *template* came from: config, tokenizer or default.
    """

    template: PromptTemplate
    origin: str

    def write(self, *, prompt: str, system_prompt: str, prompt_template: str = "") -> Written:
        """Return the text for the model.

        *prompt_template* is the name of one of `NAMED`, a format string, or empty for the
        deployment's own.

        Raises:
            PromptBlank: the prompt, or what became of it, is blank.
            TemplateLacksPrompt, TemplateInvalid: *prompt_template* does not fit.
        """
        template = self.template
        if prompt_template:
            template = FieldTemplate(NAMED.get(prompt_template, prompt_template))
        elif not prompt.strip():
            raise PromptBlank("the prompt is blank; send some text as prompt")
        text = template.render(prompt=prompt, system_prompt=system_prompt)
        if not text.strip():
            raise PromptBlank("the formatted prompt is blank; send some text as prompt")
        return Written(text, complete=isinstance(template, ChatTemplate))


def choose_prompts(
    *,
    config_template: str | None,
    tokenizer_template: str | None,
    special_tokens: Mapping[str, str] | None = None,
    now: Callable[[], datetime] | None = None,
) -> Prompts:
    """Return how a deployment writes prompts.

    *config_template* is Jinja or the name of one of `NAMED`, *tokenizer_template* is Jinja; both
    see *special_tokens* and *now*, as `ChatTemplate` says.

    Raises:
        TemplateInvalid: the template chosen is not Jinja.
    """
    if config_template and config_template in NAMED:
        return Prompts(FieldTemplate(NAMED[config_template]), "config")
    if config_template:
        return Prompts(ChatTemplate(config_template, special_tokens, now), "config")
    if tokenizer_template:
        return Prompts(ChatTemplate(tokenizer_template, special_tokens, now), "tokenizer")
    return Prompts(FieldTemplate(COMPLETION), "default")
