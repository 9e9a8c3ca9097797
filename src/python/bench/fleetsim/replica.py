"""One engine of a simulated fleet, and the requests that are on their way through it.  Pure."""

from bench.fleetsim.scenario import Arrival, ReplicaSetup
from bench.fleetsim.tokens import TokenTimes
from servekit.enginesim.engine import SimulatedEngine
from servekit.enginesim.sequence import EngineRequest
from servekit.routing.load_tracker import InFlight, ReplicaLoad
from servekit.routing.request import RouteRequest


class Trip:
    """One request on its way."""

    __slots__ = (
        "account",
        "arrival",
        "first_s",
        "held",
        "number",
        "replica",
        "request",
        "route",
        "tried",
    )

    def __init__(self, number: int, arrival: Arrival, route: RouteRequest) -> None:
        self.number = number
        self.arrival = arrival
        self.route = route
        self.request = EngineRequest(
            number, arrival.prompt_tokens, arrival.output_tokens, arrival.segments
        )
        self.first_s = -1.0
        self.tried: tuple[str, ...] = ()
        self.account: ReplicaLoad
        self.held: InFlight
        self.replica: VirtualReplica


class VirtualReplica:
    """One engine, up or down."""

    __slots__ = (
        "born_s",
        "draining",
        "engine",
        "late_s",
        "number",
        "setup",
        "tokens",
        "trips",
        "up",
        "version",
    )

    def __init__(
        self,
        setup: ReplicaSetup,
        number: int,
        engine: SimulatedEngine,
        now: float,
        tokens: TokenTimes | None,
    ) -> None:
        self.setup = setup
        self.number = number
        self.engine = engine
        self.tokens = tokens
        self.up = True
        self.draining = False
        self.born_s = now
        # How late the tokens of the last step that ended came out.
        self.late_s = 0.0
        # An event of an earlier version is about a step that was cut short.
        self.version = 0
        self.trips: dict[int, Trip] = {}
