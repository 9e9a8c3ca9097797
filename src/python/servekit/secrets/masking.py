"""Take secrets out of text before it goes anywhere.  Pure.

Logs hold what people print: a token in a URL, an environment that was dumped.  What looks like a
secret is replaced; the name beside it stays, and so do words that explain a failure.  Every rule
reads the text once, so that a line of 256 kB costs no more than as many short ones.
"""

import re
from collections.abc import Iterable, Iterator

from servekit.secrets.assignments import assigned_values
from servekit.secrets.blocks import private_keys
from servekit.secrets.commands import command_secrets
from servekit.secrets.issuers import issued_tokens
from servekit.secrets.randomness import Span, random_runs
from servekit.secrets.secret import MASK, Secret
from servekit.secrets.urls import secret_parts


def masked(text: str, known: Iterable[Secret] = ()) -> str:
    """Return *text* with MASK where something looks like a secret, or is one of *known*."""
    spans = sorted(
        (
            *private_keys(text),
            *secret_parts(text),
            *issued_tokens(text),
            *assigned_values(text),
            *command_secrets(text),
            *random_runs(text),
            *_known(text, known),
        )
    )
    return "".join(_pieces(text, spans))


def masked_lines(lines: Iterable[str], known: Iterable[Secret] = ()) -> list[str]:
    """Return *lines* masked as one text: a private key spreads over several."""
    return masked("\n".join(lines), known).split("\n")


def _known(text: str, known: Iterable[Secret]) -> Iterator[Span]:
    for secret in known:
        if secret:
            for match in re.finditer(re.escape(secret.reveal()), text):
                yield match.span()


def _pieces(text: str, spans: list[Span]) -> Iterator[str]:
    """Yield what stands between *spans*, which are in order and may overlap, and their masks."""
    done = 0
    for start, end in spans:
        if end <= done or start == end:
            continue
        if start >= done and not (done and start == done):
            yield text[done:start]
            yield MASK
        done = end
    yield text[done:]
