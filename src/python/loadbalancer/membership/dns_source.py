"""A DNS name that stands for replicas.  Pure."""

from urllib.parse import urlsplit

import msgspec

from servekit.errors.tree import SettingInvalid


class DnsSource(msgspec.Struct, frozen=True):
    """A name that stands for replicas.

    Attributes:
        port: where every one of them listens; None where the name has SRV records, which say it.
    """

    name: str
    port: int | None


def read_source(text: str) -> DnsSource:
    """Return the source in *text*: `dns://name:port` or `srv://_service._tcp.name`.

    Raises:
        SettingInvalid: it is neither.
    """
    try:
        parts = urlsplit(text)
        name, port = parts.hostname, parts.port
    except ValueError as error:
        raise SettingInvalid(f"--discover {text!r}: {error}; write dns://name:port") from error
    if parts.scheme == "dns" and name and port:
        return DnsSource(name, port)
    if parts.scheme == "srv" and name and port is None:
        return DnsSource(name, None)
    raise SettingInvalid(
        f"--discover {text!r} is no name to look up; write dns://name:port or srv://_http._tcp.name"
    )
