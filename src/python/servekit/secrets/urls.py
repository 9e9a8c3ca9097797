"""What of a URL may be shown.  Pure."""

import re
from collections.abc import Iterator

from servekit.secrets.names import is_secret_name
from servekit.secrets.randomness import Span
from servekit.secrets.secret import MASK

_URL = re.compile(
    r"\s*(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):/{2,}(?P<authority>[^/?#]*)(?P<rest>.*)", re.DOTALL
)
_PORT = re.compile(r"(\[[^\]]*\]|[^:]*)(:\d*)?")


def public_url(text: str) -> str:
    """Return *text* without user, password, query and fragment; other text as it is.

    The name under which a model that came from a URL is served, listed and logged.  Never raises:
    a URL that cannot be parsed is where people leave a `/` or a `?` in a password.

        public_url("https://user:pw@host/m/model.tar?sig=S")  # "https://host/m/model.tar"
    """
    url = _URL.fullmatch(text)
    if url is None:
        return text
    authority, rest = url["authority"], url["rest"]
    if "@" not in authority and not _PORT.fullmatch(authority):
        # `user:pa/ss@host`: what follows the colon is no port, so the password goes on.
        _, at, after = rest.rpartition("@")
        found = _URL.fullmatch(f"x://{after}") if at else None
        authority, rest = (found["authority"], found["rest"]) if found else (MASK, "")
    host = authority.rpartition("@")[2]
    return f"{url['scheme']}://{host}{re.split(r'[?#]', rest, maxsplit=1)[0]}"


# User and password before a host, and the same where a password has slashes in it.
_USER = re.compile(r"://(?P<user>[^\s/?#\"'<>`]*)@(?!sha\d{3}:)")
_SLASHED_USER = re.compile(
    r"://(?P<user>[^\s/?#@\"'<>:]*+:(?!\d{1,5}(?:[/?#,:\s\"']|\Z))[^\s\"'<>]{1,64}?)@(?!sha\d{3}:)"
)
# `user:password@host` of drivers that take no scheme.
_BARE_USER = re.compile(
    r":(?<!mailto:)(?<!\w\w:/:)(?P<user>[^\s:@/\"'<>]{3,128}+)@"
    r"(?!sha\d{3}:)(?=tcp\(|unix\(|localhost|[\w-]{1,63}\.[A-Za-z\d]|[\w-]{1,63}:\d)"
)
_QUERY = re.compile(
    r"(?:[?&#]|&amp;|\\u0026|%26|%3[fF])(?P<name>[\w.-]{1,80}+)(?:=|%3[dD])"
    r"(?P<value>[^&\s\"'<>#\\]++)"
)
# In a query these are secrets; elsewhere they are words like others.
_QUERY_NAMES = frozenset(
    {"sig", "sign", "key", "code", "hmac", "policy", "ticket", "session", "st", "hdnea", "pw", "p"}
)
# Whoever has the path of a webhook may post to it.
_HOOKS = re.compile(
    r"(?:hooks\.slack\.com/\w{1,20}|discord(?:app)?\.com/api(?:/v\d{1,2})?/webhooks"
    r"|webhook\.office\.com/webhookb2|outlook\.office\.com/webhook|chat\.googleapis\.com/v1/spaces"
    r"|api\.telegram\.org/bot|hooks\.zapier\.com/hooks|maker\.ifttt\.com/\w{1,20}"
    r"|logic\.azure\.com(?::\d+)?/workflows|open\.feishu\.cn/open-apis/bot)/?(?P<path>[^\s\"'<>`]++)"
)


def secret_parts(text: str) -> Iterator[Span]:
    """Yield where URLs in *text* hold users, signatures, keys, or are webhooks."""
    for rule in (_USER, _SLASHED_USER, _BARE_USER) if "@" in text else ():
        for found in rule.finditer(text):
            yield found.span("user")
    for found in _HOOKS.finditer(text):
        yield found.span("path")
    for found in _QUERY.finditer(text):
        name = found["name"].lower().replace("_", "-")
        if name in _QUERY_NAMES or name.startswith(("x-amz-", "x-goog-")) or is_secret_name(name):
            yield found.span("value")
