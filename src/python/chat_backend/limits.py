"""How many requests one client may make.  Pure: the time is an argument."""

from chat_backend.failures import RateExceeded

# Clients remembered at once; beyond it the one that was quiet longest is forgotten.
MAX_CLIENTS = 10_000


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
