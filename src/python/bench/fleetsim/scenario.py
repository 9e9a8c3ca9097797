"""What happens to a fleet: who asks, what breaks, and when it grows.  Pure values."""

from dataclasses import dataclass, field
from math import inf

from servekit.enginesim.calibration import EngineCalibration
from servekit.enginesim.engine_args import DEFAULT_OPTIONS, EngineOptions
from servekit.errors.tree import SettingInvalid
from servekit.metrics.engine_load import EngineLoad


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request that reaches the load balancer.

    Attributes:
        segments: chained hash, or id, of each full segment of the prompt.
        session: whose conversation it belongs to.
        by_rule: what the load balancer takes its text and its media for, in tokens, before engines
            have told it better; None where it sees `prompt_tokens`.
    """

    at_s: float
    model: str
    prompt_tokens: int
    output_tokens: int
    segments: tuple[int, ...] = ()
    session: str | None = None
    by_rule: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class ReplicaSetup:
    """One engine of the fleet.  Replicas of a model may differ in GPU, and so in calibration.

    Attributes:
        shares: the name of a GPU whose KV-cache memory it shares with others of that name, as with
            KVCached; its `kv_cache_tokens` are then what it would have alone.
        kv_bytes_per_token: of its model; only needed where memory is shared.
        card: the name of a GPU whose time it shares with others of that name, and not its memory.
        options: the arguments of `vllm serve` that it was started with.
        claims: what it says when it is polled, instead of the truth.
    """

    name: str
    model: str
    calibration: EngineCalibration
    max_model_len: int
    max_in_flight: int | None = None
    shares: str | None = None
    kv_bytes_per_token: float = 0.0
    card: str | None = None
    options: EngineOptions = DEFAULT_OPTIONS
    claims: EngineLoad | None = None


@dataclass(frozen=True, slots=True)
class ReplicaFailure:
    """A replica that dies at *at_s* and serves again, empty, *down_s* later."""

    replica: str
    at_s: float
    down_s: float

    def __post_init__(self) -> None:
        if not (0 <= self.at_s < inf and 0 <= self.down_s < inf):
            raise SettingInvalid(
                f"failure of {self.replica!r} at {self.at_s} s for {self.down_s} s; both must be "
                "at least 0 s"
            )


@dataclass(frozen=True, slots=True)
class Autoscale:
    """Replicas of each model follow the requests in flight.

    Attributes:
        in_flight: requests per replica that are aimed at.
        most: replicas of one model, at most; the setups given are the least.
        every_s: how often it looks.
        start_s: from the decision to a replica that serves: a cold start, or a wake-up.
        idle_s: how long fewer must have sufficed before one is drained.
    """

    in_flight: float
    most: int
    start_s: float
    every_s: float = 10.0
    idle_s: float = 120.0

    def __post_init__(self) -> None:
        times = (self.in_flight, self.every_s)
        if self.most < 1 or not all(0 < one < inf for one in times) or not 0 <= self.start_s < inf:
            raise SettingInvalid(
                f"autoscaling with {self.in_flight} requests in flight, at most {self.most} "
                f"replicas, every {self.every_s} s, start {self.start_s} s; requests, replicas and "
                "interval must be above 0, the start at least 0 s"
            )


@dataclass(frozen=True, slots=True)
class Scenario:
    """The world around the requests.

    Attributes:
        poll_s: seconds between two polls of /metrics; loads are that stale at worst, plus the
            scrape.
        scrape_s: seconds from the engine's answer to the load balancer's knowledge of it.
        segment_tokens: tokens per entry of `Arrival.segments`.
        retries: further replicas that are tried before the first byte.
        shared_bytes: KV-cache memory of each GPU that replicas share.
    """

    replicas: tuple[ReplicaSetup, ...]
    poll_s: float = 0.2
    scrape_s: float = 0.006
    segment_tokens: int = 512
    retries: int = 2
    failures: tuple[ReplicaFailure, ...] = ()
    autoscale: Autoscale | None = None
    shared_bytes: float = 0.0
    seed: int = 1
    names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        names = frozenset(setup.name for setup in self.replicas)
        if len(names) != len(self.replicas) or not names:
            raise SettingInvalid(
                "a fleet needs at least one replica, and replica names must be unique"
            )
        unknown = [failure.replica for failure in self.failures if failure.replica not in names]
        if unknown:
            raise SettingInvalid(f"failure of {unknown[0]!r}: no replica has this name")
        if not 0 < self.poll_s < inf:
            raise SettingInvalid(f"poll_s is {self.poll_s}; it must be above 0")
        object.__setattr__(self, "names", names)
