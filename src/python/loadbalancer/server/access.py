"""Who may ask for what: keys of clients and of admins, on either port.  Pure."""

from collections.abc import Mapping

from loadbalancer.server.keys import KeyRing
from servekit.relay.heads import HttpRequestHead
from servekit.relay.responses import LocalResponse, not_allowed, refuse
from servekit.wire.routes import Audience, Route, RouteTable

# Headers in which clients send a key: OpenAI's and vLLM's, Anthropic's, Azure's.
CREDENTIALS = frozenset([b"authorization", b"x-api-key", b"api-key"])

PROTOCOLS = b"sec-websocket-protocol"
# As OpenAI's clients in browsers send it.
_KEY_PROTOCOL = b"openai-insecure-api-key."

_CLIENT = Audience.CLIENT

_UNKNOWN = "unknown endpoint; this server has /health, /metrics and /v1/models"
_NO_KEY = "missing or invalid API key; send 'Authorization: Bearer KEY'"


def admits(keys: KeyRing, fields: Mapping[bytes, bytes]) -> bool:
    """Whether a request with these header *fields* carries one of *keys*, or needs none."""
    if keys.admits(fields.get(b"authorization", b"")):
        return True
    offered = fields.get(b"x-api-key") or fields.get(b"api-key") or _in_protocols(fields)
    return offered is not None and keys.admits(b"Bearer " + offered)


def without_keys(protocols: bytes) -> bytes:
    """Return a WebSocket's *protocols* without the one that is a key."""
    kept = (p.strip() for p in protocols.split(b","))
    return b", ".join(p for p in kept if not p.startswith(_KEY_PROTOCOL))


def _in_protocols(fields: Mapping[bytes, bytes]) -> bytes | None:
    """Return the key with which a page opens a WebSocket: it can set no header but this."""
    for protocol in fields.get(PROTOCOLS, b"").split(b","):
        if protocol.strip().startswith(_KEY_PROTOCOL):
            return protocol.strip().removeprefix(_KEY_PROTOCOL)
    return None


class Access:
    """What is let in on a port.

    Attributes:
        keys: of clients; an empty ring lets everyone in.
        admin_keys: of admins; with none, nobody changes an engine.
    """

    def __init__(self, table: RouteTable, *, clients: bool = True, admins: bool = True) -> None:
        """*clients*, *admins*: for whom the port is."""
        self._table = table
        self._clients = clients
        self._admins = admins
        self.keys = KeyRing()
        self.admin_keys = KeyRing()

    def refusal(self, head: HttpRequestHead) -> LocalResponse | None:
        """Return the refusal of a request; None where it may come in."""
        route = self._table.find(head.target)
        if route is None:
            return refuse(404, _UNKNOWN)
        audience = route.audience
        if audience is not _CLIENT or not self._clients:
            refused = self._wrong_port(route)
            if refused is not None:
                return refused
        elif not self.keys and head.method in route.methods:
            # What nearly all requests are.
            return None
        if head.method not in route.methods and not (route.upgrades and head.opens_websocket):
            return _wrong_method(route, head)
        if route.keyless or self._has_key(audience, head.fields):
            return None
        return refuse(401, _NO_KEY)

    def _wrong_port(self, route: Route) -> LocalResponse | None:
        """Return the refusal of what this port does not have."""
        audience = route.audience
        if audience is Audience.ANYONE:
            return None
        if audience is Audience.CLIENT:
            return None if self._clients else refuse(404, "not available on the admin port")
        if not self._admins:
            return refuse(404, _UNKNOWN)
        if audience is Audience.ADMIN and not self.admin_keys:
            return refuse(404, "not available without --admin-keys, which say who may ask")
        return None

    def _has_key(self, audience: Audience, fields: Mapping[bytes, bytes]) -> bool:
        if self.admin_keys:
            if audience is not Audience.CLIENT:
                return admits(self.admin_keys, fields)
            # An admin may do what a client may.
            if self.keys and admits(self.admin_keys, fields):
                return True
        return not self.keys or admits(self.keys, fields)


def _wrong_method(route: Route, head: HttpRequestHead) -> LocalResponse:
    path = head.path.decode()
    if not route.methods:
        return refuse(426, f"{path} is a WebSocket; send 'Upgrade: websocket'")
    return not_allowed(f"{path} supports {' and '.join(route.methods)} only", route.methods)
