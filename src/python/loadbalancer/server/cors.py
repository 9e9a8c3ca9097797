"""Which pages a browser lets read our answers.  Pure.

Source: https://fetch.spec.whatwg.org/#http-cors-protocol.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

from servekit.errors.tree import SettingInvalid
from servekit.relay.heads import HttpRequestHead
from servekit.relay.responses import LocalResponse

ANY = "*"
# A browser asks again after this; longer is cut by some.
_MAX_AGE_S = 600
_EXPOSED = b"x-request-id, x-servekit-replica, x-servekit-policy, x-servekit-queue-ms, retry-after"


class CorsRules:
    """The origins that may; none by default, which is what a browser then enforces."""

    def __init__(self, origins: tuple[str, ...] = ()) -> None:
        self._any = ANY in origins
        self._origins = frozenset(origin.encode() for origin in origins)

    def __bool__(self) -> bool:
        return bool(self._origins)

    def allows(self, fields: Mapping[bytes, bytes]) -> bool:
        """Whether the page that sent a request with these *fields* may."""
        return self._any or fields.get(b"origin", b"") in self._origins

    def lines(self, fields: Mapping[bytes, bytes]) -> bytes:
        """Return the header lines that an answer gets."""
        if not self._origins or b"origin" not in fields:
            return b""
        vary = b"vary: origin\r\n"
        if not self.allows(fields):
            return vary
        return b"access-control-allow-origin: %b\r\naccess-control-expose-headers: %b\r\n%b" % (
            fields[b"origin"],
            _EXPOSED,
            vary,
        )

    def is_preflight(self, head: HttpRequestHead) -> bool:
        """Whether a browser asks whether it may send a request, and we are to say."""
        fields = head.fields
        asks = b"access-control-request-method" in fields and b"origin" in fields
        return bool(self._origins) and head.method == "OPTIONS" and asks

    def preflight(self, head: HttpRequestHead, methods: tuple[str, ...]) -> LocalResponse:
        """Return the answer to that, but for what `lines` gives every answer."""
        fields = head.fields
        lines = b""
        if self.allows(fields):
            lines = b"access-control-allow-methods: %b\r\naccess-control-max-age: %d\r\n" % (
                ", ".join(methods).encode(),
                _MAX_AGE_S,
            )
            wanted = fields.get(b"access-control-request-headers")
            if wanted:
                lines += b"access-control-allow-headers: %b\r\n" % wanted
        return LocalResponse(200, b"", lines=lines)


def read_origins(text: str) -> tuple[str, ...]:
    """Return the origins in *text*, with commas between, or `*` for any.

    Raises:
        SettingInvalid: one is no origin.
    """
    origins = tuple(part.strip().rstrip("/") for part in text.split(",") if part.strip())
    for origin in origins:
        parts = urlsplit(origin)
        if origin not in (ANY, f"{parts.scheme}://{parts.netloc}") or origin == "://":
            raise SettingInvalid(
                f"--cors-origins has {origin!r}; write https://host[:port], or * for any"
            )
    return origins
