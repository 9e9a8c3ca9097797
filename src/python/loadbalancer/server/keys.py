"""Bearer keys, hashed at rest.  Pure but for `load_keys`, which reads the file."""

import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path

from servekit.errors.tree import SettingInvalid

_SHA256 = re.compile(r"[0-9a-f]{64}")


class KeyRing:
    """Who may send requests.  An empty ring lets everyone in."""

    def __init__(self, digests: Iterable[str] = ()) -> None:
        self._digests = tuple(digests)

    def __bool__(self) -> bool:
        """Whether a key is required."""
        return bool(self._digests)

    def admits(self, authorization: bytes) -> bool:
        """Whether *authorization*, the header's value, carries one of the keys.

        Every key is compared, each in constant time.
        """
        if not self._digests:
            return True
        scheme, _, token = authorization.partition(b" ")
        given = hashlib.sha256(token.strip()).hexdigest()
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return scheme.lower() == b"bearer" and any(matches)


def read_keys(text: str, source: str) -> KeyRing:
    """Return the keys in *text*: a SHA-256 in hexadecimal per line; `#` begins a comment.

    Raises:
        SettingInvalid: a line is no such digest; the message has its number and not its text.
    """
    digests: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        digest = line.partition("#")[0].strip().lower()
        if not digest:
            continue
        if _SHA256.fullmatch(digest) is None:
            raise SettingInvalid(
                f"{source}, line {number}: not a SHA-256; write the output of "
                "`printf %s KEY | sha256sum`"
            )
        digests.append(digest)
    if not digests:
        raise SettingInvalid(f"{source} holds no key; add one SHA-256 per line")
    return KeyRing(digests)


def load_keys(path: Path) -> KeyRing:
    """Return the keys in the file at *path*.

    Raises:
        SettingInvalid: it cannot be read, or as for `read_keys`.
    """
    try:
        return read_keys(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingInvalid(f"{path}: cannot be read: {error}") from error
