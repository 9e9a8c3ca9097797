"""The prompt that a text becomes before it is embedded.  Pure.

An instruction-tuned model embeds a query together with what the query is for; documents are
embedded as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phrasing:
    """How this model is to be asked.

    Attributes:
        instruction: what a query is for, where the caller does not say.
        template: holds {instruction} and {text}.
    """

    instruction: str
    template: str


def phrased(
    texts: Sequence[str], phrasing: Phrasing, *, instruction: str | None, query: bool
) -> list[str]:
    """Return the prompts of *texts*, in the order given.

    An instruction makes every text a query; without one, a query gets the model's own.
    """
    if instruction is None and not query:
        return list(texts)
    before, after = _split(phrasing.template, instruction or phrasing.instruction)
    return [f"{before}{text}{after}" for text in texts]


def _split(template: str, instruction: str) -> tuple[str, str]:
    # Cut at {text} first: an instruction may itself say {text}, and is no template.
    before, _, after = template.partition("{text}")
    return before.replace("{instruction}", instruction), after.replace("{instruction}", instruction)
