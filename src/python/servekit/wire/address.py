"""Where an engine or a load balancer is, from its URL.  Pure."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from servekit.errors.tree import SettingInvalid


@dataclass(frozen=True, slots=True)
class Address:
    """Where somebody listens.

    Attributes:
        path: what stands before `/v1`; usually empty.
    """

    host: str
    port: int
    secure: bool = False
    path: str = ""

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.authority}{self.path}"


def read_address(url: str) -> Address:
    """Return the address in *url*, `http://host:port` or https, with or without `/v1`.

    Raises:
        SettingInvalid: it is no such URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise SettingInvalid(f"URL {url!r}: {error}; write http://host:port") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingInvalid(f"URL {url!r} cannot be requested; write http://host:port")
    path = parts.path.rstrip("/").removesuffix("/v1")
    return Address(parts.hostname, port, parts.scheme == "https", path)
