"""How often a failed request may be sent again.  Pure."""

# 20 % more requests at most: enough for a replica that died, too little to drown the others.
BUDGET_SHARE = 0.2
# A balancer that has served little may still retry this often.
BUDGET_FLOOR = 20.0
_MOST_SAVED = 100.0


class RetryBudget:
    """Each request earns a share of a retry; a retry costs one."""

    __slots__ = ("_saved",)

    def __init__(self) -> None:
        self._saved = BUDGET_FLOOR

    def earn(self) -> None:
        """A request came."""
        if self._saved < _MOST_SAVED:
            self._saved += BUDGET_SHARE

    def spend(self) -> bool:
        """Return whether one may be sent again; if so, it is paid for."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True
