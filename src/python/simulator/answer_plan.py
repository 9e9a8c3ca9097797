"""What an answer will be: how many tokens, why it ends, and which part of them is text.  Pure.

The simulator writes ten words in turn, so that where a stop string will end an answer is known
before it begins.
"""

from dataclasses import dataclass

from simulator.parameters import NotSimulated, Parameters
from simulator.prompts import Prompt, natural_length

# One token each.  Lengths differ, so that a client that counts bytes instead of tokens is noticed.
WORDS = (" the", " quick", " brown", " fox", " jumps", " over", " a", " lazy", " dog", ".")

_PERIOD = "".join(WORDS)


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """One answer.

    Attributes:
        reason: vLLM's finish_reason.
        stop_reason: the stop string that ended it.
        length: characters of its text; None for all of its words.
        prefix: what comes before its first word.
    """

    tokens: int
    reason: str
    stop_reason: str | None = None
    length: int | None = None
    prefix: str = ""

    @property
    def text(self) -> str:
        return self.prefix + text_of(self.tokens)[: self.length]

    def word(self, position: int) -> str:
        """Return what the token at *position* adds to the text."""
        word = WORDS[position % len(WORDS)]
        if self.length is not None:
            word = word[: max(0, self.length - len(text_of(position)))]
        return self.prefix + word if self.prefix and not position else word


def text_of(tokens: int) -> str:
    """Return the text of the first *tokens* words."""
    whole, rest = divmod(tokens, len(WORDS))
    return _PERIOD * whole + "".join(WORDS[:rest])


def plan_answer(parameters: Parameters, prompt: Prompt, limit: int, number: int) -> AnswerPlan:
    """Return what answer *number* to *prompt* will be; *limit* is its most tokens.

    Raises:
        NotSimulated: token ids are to be echoed, which have no text here.
    """
    prefix = ""
    if parameters.echo:
        if prompt.text is None:
            raise NotSimulated("echo of token ids")
        prefix = prompt.text
        if parameters.max_tokens == 0:
            # vLLM computes one token, and does not show it.
            return AnswerPlan(1, "length", length=0, prefix=prefix)
    tokens, reason = _natural(parameters, prompt, limit, number)
    ended = first_stop(parameters.stop, parameters.min_tokens, tokens)
    if ended is None:
        return AnswerPlan(tokens, reason, prefix=prefix)
    tokens, start, string = ended
    length = start + len(string) if parameters.keep_stop else start
    return AnswerPlan(tokens, "stop", string, length, prefix)


def first_stop(stop: tuple[str, ...], after: int, limit: int) -> tuple[int, int, str] | None:
    """Return the token that completes the first of the strings *stop*, where that begins, and it.

    They are looked for in what comes after token *after*, up to token *limit*.
    """
    found: list[tuple[int, int, int, str]] = []
    for place, string in enumerate(stop):
        # Two periods on, everything has been seen.
        most = min(limit, after + 2 * len(WORDS) + len(string))
        text = text_of(most)
        start = text.find(string, max(0, len(text_of(after)) + 1 - len(string)))
        if start >= 0:
            end = start + len(string)
            token = next(n for n in range(1, most + 1) if len(text_of(n)) >= end)
            found.append((token, place, start, string))
    if not found:
        return None
    token, _, start, string = min(found)
    return token, start, string


def _natural(parameters: Parameters, prompt: Prompt, limit: int, number: int) -> tuple[int, str]:
    if parameters.ignore_eos:
        return limit, "length"
    natural = max(natural_length(prompt, number), parameters.min_tokens)
    return (natural, "stop") if natural < limit else (limit, "length")
