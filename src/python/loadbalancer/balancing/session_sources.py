"""Where a request names its session.  Pure."""

from collections.abc import Mapping
from typing import Any

import msgspec

from servekit.errors.tree import SettingInvalid

USUAL = ("header:x-session-id", "cookie:session_id", "prompt_cache_key", "user")
_IN_BODY = ("prompt_cache_key", "user")


class SessionSources(msgspec.Struct, frozen=True):
    """Headers, cookies and fields of the body, in the order in which they are looked at.

    `user` is also what Messages have as `metadata.user_id`.
    """

    headers: tuple[bytes, ...] = (b"x-session-id",)
    cookies: tuple[str, ...] = ("session_id",)
    fields: tuple[str, ...] = _IN_BODY

    def in_headers(self, fields: Mapping[bytes, bytes]) -> str | None:
        """Return the session that header *fields* name."""
        for name in self.headers:
            named = fields.get(name)
            if named:
                return named.decode("latin-1")
        return self._in_cookies(fields[b"cookie"]) if b"cookie" in fields else None

    def in_body(self, prompt_cache_key: Any, user: Any, metadata: Any) -> str | None:
        """Return the session that these fields of a body name."""
        if user is None and isinstance(metadata, dict):
            user = metadata.get("user_id")
        said = {"prompt_cache_key": prompt_cache_key, "user": user}
        for name in self.fields:
            value = said[name]
            if isinstance(value, str) and value:
                return value
        return None

    def _in_cookies(self, header: bytes) -> str | None:
        pairs = (pair.strip().partition("=") for pair in header.decode("latin-1").split(";"))
        found = {name: value for name, _, value in pairs}
        return next((found[name] for name in self.cookies if found.get(name)), None)


def read_sources(text: str) -> SessionSources | None:
    """Return the sources in *text*, with commas between; None where it is `off`.

    Raises:
        SettingInvalid: one is unknown.
    """
    if text.strip() == "off":
        return None
    headers: list[bytes] = []
    cookies: list[str] = []
    fields: list[str] = []
    for source in filter(None, (part.strip() for part in text.split(","))):
        kind, _, name = source.partition(":")
        if kind == "header" and name.isascii() and name:
            headers.append(name.lower().encode())
        elif kind == "cookie" and name:
            cookies.append(name)
        elif source in _IN_BODY:
            fields.append(source)
        else:
            raise SettingInvalid(
                f"--session-affinity has {source!r}; it takes header:NAME, cookie:NAME, "
                f"{', '.join(_IN_BODY)}, or off"
            )
    if not (headers or cookies or fields):
        raise SettingInvalid("--session-affinity is empty; write off, or leave the option out")
    return SessionSources(tuple(headers), tuple(cookies), tuple(fields))
