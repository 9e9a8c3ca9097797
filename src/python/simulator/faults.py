"""What can be made to go wrong in a simulated engine.  Pure.

A fault is set by POST /simulator/fault on a replica, one JSON object:

    {"kind": "stall", "seconds": 2}                      no token for 2 s, connections stay open
    {"kind": "slow-start", "seconds": 5}                 restart: everything in flight is cut, the
                                                         port refuses connections for 5 s
    {"kind": "die-mid-stream", "after_tokens": 3}        cut the connection after the third token
    {"kind": "errors", "status": 500}                    answer with a status instead of tokens
    {"kind": "drop-metrics"}                             /metrics answers 500
    {"kind": "lie-in-metrics", "running": 0}             /metrics says so, whatever is true
    {"kind": "drain"}                                    finish what runs, refuse the rest with
                                                         503, and so /health
    {"kind": "slow", "factor": 3}                        every step takes three times as long
    {"kind": "none"}                                     end every fault

`seconds` ends a fault by itself; `share` lets die-mid-stream and errors hit that share of requests.
"""

from typing import Literal

import msgspec

from servekit.errors.tree import RequestInvalid

Kind = Literal[
    "stall",
    "slow-start",
    "die-mid-stream",
    "errors",
    "drop-metrics",
    "lie-in-metrics",
    "drain",
    "slow",
    "none",
]


class InjectedFault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fault.

    Attributes:
        seconds: how long it lasts; None until it is ended.  A stall and a slow start have an end.
        share: share of requests that it hits, above 0.0 and at most 1.0.
    """

    kind: Kind
    seconds: float | None = None
    share: float = 1.0
    status: int = 500
    after_tokens: int = 1
    factor: float = 1.0
    running: int | None = None
    waiting: int | None = None
    kv_usage: float | None = None


_decode = msgspec.json.Decoder(InjectedFault).decode


def read_fault(body: bytes) -> InjectedFault:
    """Return the fault that *body* describes.

    Raises:
        RequestInvalid: it is not one.
    """
    try:
        fault = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestInvalid(f"invalid fault: {error}") from error
    if fault.kind in ("stall", "slow-start") and fault.seconds is None:
        raise RequestInvalid(f"fault {fault.kind!r} needs seconds")
    if fault.seconds is not None and not 0 < fault.seconds <= 3600:
        raise RequestInvalid(f"seconds is {fault.seconds}; it must be above 0 and at most 3600")
    if not 0 < fault.share <= 1 or fault.after_tokens < 0 or fault.factor <= 0:
        raise RequestInvalid(
            "share must be above 0 and at most 1, after_tokens at least 0, factor above 0"
        )
    if not 400 <= fault.status <= 599:
        raise RequestInvalid(f"status is {fault.status}; it must be from 400 to 599")
    return fault


class ActiveFaults:
    """The faults that are set, with the time at which each ends."""

    def __init__(self) -> None:
        self._until: dict[Kind, tuple[InjectedFault, float]] = {}

    def set(self, fault: InjectedFault, now: float) -> None:
        if fault.kind == "none":
            self._until.clear()
            return
        self._until[fault.kind] = (
            fault,
            float("inf") if fault.seconds is None else now + fault.seconds,
        )

    def get(self, kind: Kind, now: float) -> InjectedFault | None:
        """Return the fault of this kind that is in force."""
        found = self._until.get(kind)
        if found is None:
            return None
        if found[1] <= now:
            del self._until[kind]
            return None
        return found[0]

    def stalled_until(self, now: float) -> float | None:
        """Return when the stall in force ends."""
        return self._until["stall"][1] if self.get("stall", now) else None
