"""What the engine owes: requests that it has, and when it last computed something.  Pure."""

from dataclasses import dataclass


@dataclass(slots=True)
class EngineWork:
    """Requests that only the engine's core can answer.

    Attributes:
        open: under way (count).
        heard_s: when something came that the core has computed, or when work began.
        doubted: whether a client gave up before anything came, and nothing has come since.
    """

    open: int = 0
    heard_s: float = 0.0
    doubted: bool = False

    def begin(self, now_s: float) -> None:
        """A request is on its way."""
        if self.open == 0 and not self.doubted:
            self.heard_s = now_s
        self.open += 1

    def hear(self, now_s: float) -> None:
        """The core has computed something."""
        self.heard_s = now_s
        self.doubted = False

    def end(self, *, abandoned: bool) -> None:
        """A request is over; *abandoned* if its client left."""
        self.open -= 1
        self.doubted = self.doubted or abandoned

    def silent_s(self, now_s: float) -> float:
        """Return for how long the engine has owed something and computed nothing."""
        return now_s - self.heard_s if self.open or self.doubted else 0.0
