"""Which requests a client may send to the engine, and with which key.  Pure.

vLLM asks for its key below /v1 and a few other paths only, and has routes that end, pause or
rewrite it.  So the front passes on what is listed here and nothing else, and asks for the key.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from servekit.errors.tree import SettingInvalid
from servekit.relay.heads import HttpRequestHead
from servekit.relay.responses import LocalResponse, not_allowed, refuse
from servekit.secrets.secret import Secret
from servekit.wire import routes

STARTUP = "/startup"
STARTUP_METRICS = "/startup/metrics"

# Asked by platforms and scrapers, which have no key; they tell nothing of a request.
OPEN = frozenset(
    {routes.HEALTH, routes.PING, routes.METRICS, routes.VERSION, STARTUP, STARTUP_METRICS}
)

# The API server answers these by itself: they do not show that the engine's core is alive.
WITHOUT_THE_CORE = frozenset({routes.TOKENIZE, "/detokenize", "/v1/messages/count_tokens"})

_READ = ("GET", "HEAD")

ROUTES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((*OPEN, routes.LOAD, routes.MODELS), _READ),
    routes.PING: (*_READ, "POST"),
    **dict.fromkeys((*routes.API_ROUTES, *routes.MODEL_ROUTES, routes.INVOCATIONS), ("POST",)),
}

# A response that vLLM has kept, by its id; a client may read it, or cancel it.
_RESPONSE = re.compile(r"/v1/responses/[\w-]+")
_CANCEL = re.compile(r"/v1/responses/[\w-]+/cancel")

_ROUTE = re.compile(r"([A-Z]+) (/\S*)")


@dataclass(frozen=True, slots=True)
class Gate:
    """What is let through.

    Attributes:
        keys: any of them opens; without any, no key is asked for.
        extra: methods by further path.
    """

    keys: tuple[Secret, ...]
    extra: dict[str, tuple[str, ...]]

    def refusal(self, head: HttpRequestHead) -> LocalResponse | None:
        """Return the refusal of a request; None where it may pass."""
        path = head.path.decode("ascii")
        methods = self._methods(path)
        if not methods:
            return refuse(
                404, f"{path} is not passed on; EXTRA_ROUTES='{head.method} {path}' allows it"
            )
        # A browser asks first, and never with a key.
        if head.method == "OPTIONS":
            return None
        if head.method not in methods:
            said = f"{path} does not take {head.method}; use {' or '.join(methods)}"
            return not_allowed(said, methods)
        if path in OPEN or not self.keys or self._opens(head):
            return None
        return refuse(401, "no valid API key; send it as `Authorization: Bearer KEY`")

    def _methods(self, path: str) -> tuple[str, ...]:
        own = ROUTES.get(path, ())
        if path not in ROUTES and _RESPONSE.fullmatch(path):
            own = _READ
        elif _CANCEL.fullmatch(path):
            own = ("POST",)
        return (*own, *self.extra.get(path, ()))

    def _opens(self, head: HttpRequestHead) -> bool:
        scheme, _, bearer = head.fields.get(b"authorization", b"").partition(b" ")
        # Anthropic's clients send theirs for /v1/messages without a scheme.
        offered = bearer.strip() if scheme.lower() == b"bearer" else head.fields.get(b"x-api-key")
        if not offered:
            return False
        text = offered.decode("utf-8", "surrogateescape")
        # Every key is compared: the time must not tell which one was close.
        return sum(key.matches(text) for key in self.keys) > 0


def read_extra_routes(texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return methods by path, as EXTRA_ROUTES has them: `POST /sleep`.

    Raises:
        SettingInvalid: a text is no method and path.
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        match = _ROUTE.fullmatch(text)
        if match is None:
            raise SettingInvalid(
                f"EXTRA_ROUTES has {text!r}; write METHOD /path, with commas between several"
            )
        method, path = match.groups()
        found[path] = (*found.get(path, ()), method)
    return found


def shows_life(head: HttpRequestHead) -> bool:
    """Return whether an answer to this request comes from the engine's core."""
    return head.method == "POST" and head.path.decode("ascii") not in WITHOUT_THE_CORE | OPEN
