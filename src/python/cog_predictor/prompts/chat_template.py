"""Render a chat template, Jinja from a stranger, in a sandbox.  Pure.

The environment is what transformers gives a chat template (utils/chat_template_utils.py), so that
a model's own template renders here as it does there.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from servekit.errors.tree import TemplateInvalid

Messages = Sequence[Mapping[str, str]]

# A refusal of the sandbox is a TemplateError; the others are what an expression can raise.
_RENDER_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


class ChatTemplate:
    """A chat template, compiled.

        ChatTemplate("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")

    *special_tokens* are variables of the template, such as `bos_token`; *now* is the date that
    some templates write, through `strftime_now`.

    Raises:
        TemplateInvalid: on construction, where the source is not Jinja.
    """

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str] | None = None,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self._special_tokens = dict(special_tokens or {})
        environment = _environment()
        if now is not None:
            environment.globals["strftime_now"] = lambda form: now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise TemplateInvalid(f"the chat template is not valid Jinja: {_why(error)}") from error

    def render(self, *, prompt: str, system_prompt: str) -> str:
        """Return the text that asks the model for an answer to *prompt*.

        A template that refuses a system turn, as Gemma's does, gets both texts in one user turn.

        Raises:
            TemplateInvalid: it refuses that too.
        """
        user = {"role": "user", "content": prompt}
        try:
            # An empty system turn is sent too: without one, Qwen's template brings its own.
            return self._render([{"role": "system", "content": system_prompt}, user])
        except TemplateInvalid:
            merged = "\n\n".join(text for text in (system_prompt, prompt) if text)
            return self._render([{"role": "user", "content": merged}])

    def _render(self, messages: Messages) -> str:
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=True, **self._special_tokens
            )
        except _RENDER_ERRORS as error:
            raise TemplateInvalid(
                f"the chat template cannot be rendered: {_why(error)}; correct it, or pass "
                "prompt_template"
            ) from error


def _why(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[jinja2.ext.loopcontrols, _GenerationBlock],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    return environment


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, indent: int | None = None) -> str:
    # Jinja's own filter escapes for HTML; a prompt is not HTML.
    return json.dumps(value, ensure_ascii=False, indent=indent)


class _GenerationBlock(jinja2.ext.Extension):
    """`{% generation %}` marks what the assistant said, for training; here it only holds text."""

    tags = {"generation"}  # noqa: RUF012  # Jinja's own declaration is a plain set

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
