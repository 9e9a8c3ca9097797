"""What of a URL may be shown.  Pure."""

import re

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
