"""How many tokens a prompt had, as the engine's answer says.  Pure."""

import re

# OpenAI's name, and that of Anthropic and /v1/responses.  In text that a model wrote the quotes are
# escaped, so that it cannot say this.
_COUNT = re.compile(rb'"(?:prompt_tokens|input_tokens)": ?(\d{1,9})\b')


def prompt_tokens_of(pieces: bytes) -> int | None:
    """Return the count in an answer's last piece, or its first; None where it has none."""
    at = pieces.rfind(b'"usage"')
    found = _COUNT.search(pieces, at) if at >= 0 else None
    return None if found is None else int(found[1])
