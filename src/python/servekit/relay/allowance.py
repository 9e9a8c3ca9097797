"""How much of something a peer may do: so much at once, and so much in the long run.  Pure."""


class Allowance:
    """A bucket that fills up as time passes."""

    __slots__ = ("_at_once", "_left", "_per_s", "_since_s")

    def __init__(self, at_once: float, per_s: float) -> None:
        self._at_once = self._left = at_once
        self._per_s = per_s
        self._since_s: float | None = None

    def spend(self, now_s: float) -> bool:
        """Take one; return whether there was one left."""
        since_s = now_s if self._since_s is None else self._since_s
        self._left = min(self._at_once, self._left + (now_s - since_s) * self._per_s)
        self._since_s = now_s
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
