"""How many requests one person may make, and who that is.  Pure: the time is an argument."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from chat_backend.failures import RateExceeded
from servekit.errors.tree import SettingInvalid

# Clients remembered at once; beyond it the one that was quiet longest is forgotten.
MAX_CLIENTS = 10_000


# One home or phone has a /64 of IPv6, and changes its address within it at will.
_IPV6_PREFIX = 64


class TrustedProxies:
    """The proxies whose X-Forwarded-For and login header are believed, by address range.

    Raises:
        SettingInvalid: an entry of *ranges* is no address range.
    """

    def __init__(self, ranges: Sequence[str]) -> None:
        try:
            self._networks = [ip_network(text) for text in ranges]
        except ValueError as error:
            raise SettingInvalid(
                f"TRUSTED_PROXIES: {error}; give address ranges such as 10.0.0.0/8"
            ) from error

    def __contains__(self, host: str) -> bool:
        address = _address(host)
        return address is not None and any(address in network for network in self._networks)

    def client_of(self, peer: str, forwarded_for: Sequence[str]) -> str:
        """Return the last address that no trusted proxy has; an IPv6 one by its /64.

        Each proxy appends whom it was asked by, so what stands before an address that is not
        trusted may be made up.  *forwarded_for* has the values of the header, in order.
        """
        hops = [hop.strip() for value in forwarded_for for hop in value.split(",")]
        client = peer
        while client in self and hops and _address(hops[-1]) is not None:
            client = hops.pop()
        address = _address(client)
        if isinstance(address, IPv6Address):
            return str(ip_network((address, _IPV6_PREFIX), strict=False))
        return client


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


class RateLimit:
    """A bucket per client that holds a minute's requests and fills evenly.

    *per_minute* 0 takes everything.
    """

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        # Client -> requests left, and when that was so.  In the order of last use.
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, client: str, now_s: float) -> None:
        """Count a request of *client*.

        Raises:
            RateExceeded: it has none left; carries how long to wait.
        """
        if not self._per_minute:
            return
        per_second = self._per_minute / 60
        left, since = self._buckets.pop(client, (float(self._per_minute), now_s))
        left = min(float(self._per_minute), left + (now_s - since) * per_second)
        refused = left < 1
        self._buckets[client] = (left if refused else left - 1, now_s)
        if len(self._buckets) > MAX_CLIENTS:
            del self._buckets[next(iter(self._buckets))]
        if refused:
            raise RateExceeded(
                f"more than {self._per_minute} requests a minute; wait a moment",
                wait_s=(1 - left) / per_second,
            )
