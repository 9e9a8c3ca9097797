"""Take secrets out of text before it goes anywhere.  Pure.

Build logs hold what people print: a token in a URL, an environment that was dumped.  What looks
like a secret is replaced; what it was cannot be told from what is left.
"""

import re
from collections.abc import Iterable

MASK = "***"

# By the prefixes that the issuers document.
_TOKENS = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}"  # Hugging Face
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"  # GitHub
    r"|glpat-[\w-]{16,}"  # GitLab
    r"|AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}"  # AWS
    r"|AIza[0-9A-Za-z_-]{30,}|ya29\.[\w.-]{20,}"  # Google
    r"|sk-[A-Za-z0-9_-]{20,}"  # OpenAI and others
    r"|xox[abeprs]-[\w-]{10,}"  # Slack
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+)"  # a JSON Web Token
)
# NAME=value, name: value, "name": "value", --name value.
_ASSIGNMENTS = re.compile(
    r"(?i)\b([\w.-]*(?:token|secret|passw(?:or)?d|api[_-]?key|private[_-]?key|credential)s?"
    r"[\"']?(?:\s*[=:]\s*|\s+))([\"']?)(?!\s)[^\s\"',;]{6,}\2"
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")
_IN_URL = re.compile(r"(\w+://)[^/\s:@]+:[^/\s@]+@")
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)


def masked(text: str) -> str:
    """Return *text* with MASK where something looks like a secret."""
    text = _PRIVATE_KEY.sub(MASK, text)
    text = _IN_URL.sub(rf"\1{MASK}@", text)
    text = _BEARER.sub(rf"\1 {MASK}", text)
    text = _TOKENS.sub(MASK, text)
    return _ASSIGNMENTS.sub(rf"\1{MASK}", text)


def masked_lines(lines: Iterable[str]) -> list[str]:
    """Return *lines* masked as one text: a private key spreads over several."""
    return masked("\n".join(lines)).split("\n")
