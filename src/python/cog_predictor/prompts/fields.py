"""Fill a format string from a caller, and nothing but its two fields.  Pure.

`str.format` would let a caller read attributes (`{prompt.__class__}`) and ask for gigabytes of
padding (`{prompt:>9999999999}`), so only the bare names {prompt} and {system_prompt} are filled.
"""

from collections.abc import Iterator
from string import Formatter

from servekit.errors.tree import TemplateInvalid, TemplateLacksPrompt

FIELDS = ("prompt", "system_prompt")

_REMEDY = "set prompt_template to '{prompt}' to send the prompt as it is"


def fill_fields(template: str, *, prompt: str, system_prompt: str) -> str:
    """Return *template* with its fields filled; `{{` and `}}` stand for braces.

    Raises:
        TemplateLacksPrompt: there is a prompt, and the template would drop it.
        TemplateInvalid: the template is no format string, or has another field or a format of one.
    """
    if prompt and "{prompt" not in template:
        raise TemplateLacksPrompt(
            f"the prompt template has no {{prompt}}, so the prompt would be dropped; {_REMEDY}"
        )
    values = {"prompt": prompt, "system_prompt": system_prompt}
    pieces: list[str] = []
    used: set[str] = set()
    for literal, name in _parse(template, prompt):
        pieces.append(literal)
        if name is not None:
            used.add(name)
            pieces.append(values[name])
    if prompt and "prompt" not in used:
        raise TemplateLacksPrompt(
            f"the prompt template has {{prompt}} only between doubled braces, so the prompt would "
            f"be dropped; {_REMEDY}"
        )
    return "".join(pieces)


def _parse(template: str, prompt: str) -> Iterator[tuple[str, str | None]]:
    try:
        for literal, name, form, conversion in Formatter().parse(template):
            if name is not None:
                _check(name, form, conversion, template, prompt)
            yield literal, name
    except ValueError as error:
        raise TemplateInvalid(_invalid(str(error), template, prompt)) from error


def _check(name: str, form: str | None, conversion: str | None, template: str, prompt: str) -> None:
    if name not in FIELDS:
        raise TemplateInvalid(_invalid(f"it has a field {{{name[:80]}}}", template, prompt))
    if form or conversion:
        raise TemplateInvalid(_invalid(f"{{{name}}} has a format", template, prompt))


def _invalid(what: str, template: str, prompt: str) -> str:
    fact = (
        f"the prompt template cannot be filled: {what}; use {{prompt}} and {{system_prompt}}, and "
        "write other braces twice"
    )
    if len(template) <= len(prompt):
        return fact
    return f"{fact}. Was the prompt sent as prompt_template? Then {_REMEDY}"
