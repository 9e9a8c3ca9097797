"""The benchmark's two environments: what runs in each, what it takes of a machine.  Pure."""

from dataclasses import dataclass
from enum import StrEnum

from servekit.errors.tree import SettingInvalid
from servekit.fleet.fleet import Fleet, FleetModel, FleetReplica

# Where every engine listens in its container; the original environments' users know it.
ENGINE_PORT = 8000

# Two environments without GPUs share nothing but ports: with these, both can be up at once, and be
# compared in turns.
_OWN_PORTS = 10


class EngineKind(StrEnum):
    """What serves a replica."""

    vllm = "vllm"
    kvcached = "kvcached"
    simulator = "simulator"


@dataclass(frozen=True, slots=True)
class Environment:
    """One arm.

    Attributes:
        balancer: the load balancer's service; its container is called `<name>-<balancer>`.
        image: of the load balancer, as Pants names what it builds.
        port: where the load balancer listens.
        suffix: of the containers' names; the baseline's have none.
        shift: added to the pods' published ports where no GPU is used.
    """

    name: str
    balancer: str
    image: str
    port: int
    suffix: str
    shift: int

    @property
    def folder(self) -> str:
        """Below src/docker, and the name of the Compose project."""
        return f"bench_{self.name}"


BASELINE = Environment("baseline", "simple-lb", "baseline_lb", 8080, "", 0)
MANAGED = Environment("managed", "smart-lb", "managed_lb", 8081, "-managed", _OWN_PORTS)
ENVIRONMENTS = {environment.name: environment for environment in (BASELINE, MANAGED)}


@dataclass(frozen=True, slots=True)
class Resources:
    """What only one environment at a time can have.

    Attributes:
        ports: of the host.
        gpus: by index, as nvidia-smi counts them.
    """

    ports: frozenset[int]
    gpus: frozenset[int]

    def shared_with(self, other: "Resources") -> str:
        """Return what both want, in words; nothing where they can live side by side."""
        ports, gpus = sorted(self.ports & other.ports), sorted(self.gpus & other.gpus)
        found = [_counted("GPU", gpus)] if gpus else []
        return " and ".join([*found, _counted("port", ports)] if ports else found)


@dataclass(frozen=True, slots=True)
class Pod:
    """One engine in its container.

    Attributes:
        service: its name on the environment's network.
        published: its port on the host.
        listens: its port in the container.
    """

    replica: FleetReplica
    model: FleetModel
    service: str
    container: str
    published: int
    listens: int


@dataclass(frozen=True, slots=True)
class FleetDeployment:
    """An environment with a fleet.

    Attributes:
        fleet_name: a built-in fleet, or the path of a file.
        port: where the load balancer is published.

    Raises:
        SettingInvalid: the engine cannot serve this fleet, or two things want one port.
    """

    environment: Environment
    fleet_name: str
    fleet: Fleet
    engine: EngineKind
    port: int

    def __post_init__(self) -> None:
        if self.engine is EngineKind.kvcached and not self.has_gpus:
            raise SettingInvalid(
                "engine kvcached needs a GPU and the fleet has none; use --engine vllm"
            )
        with_policy = [model.name for model in self.fleet.models if model.policy]
        if with_policy:
            raise SettingInvalid(
                f"model {with_policy[0]!r} has a policy, which environments do not support "
                "(the load balancers' own are compared); remove it from the fleet file"
            )
        if any(pod.published == self.port for pod in self.pods):
            raise SettingInvalid(
                f"port {self.port} is used by a replica and by the load balancer; change --port "
                "or the fleet file"
            )

    @property
    def has_gpus(self) -> bool:
        return any(replica.gpus for replica in self.fleet.replicas)

    @property
    def uses_gpus(self) -> bool:
        return self.has_gpus and self.engine is not EngineKind.simulator

    @property
    def pods(self) -> tuple[Pod, ...]:
        """In the fleet file's order, which is that of VLLM_ENDPOINTS."""
        return tuple(self._pod(replica) for replica in self.fleet.replicas)

    @property
    def stages(self) -> tuple[tuple[Pod, ...], ...]:
        """The pods in the order in which they may start: those of a GPU one after another.

        vLLM measures at its start how much memory is free, and takes what a neighbour allocates
        meanwhile for its own.
        """
        stages: list[list[Pod]] = [[]]
        for pod in self.pods:
            number = 0 if (before := self.before(pod)) is None else _stage_of(before, stages) + 1
            if number == len(stages):
                stages.append([])
            stages[number].append(pod)
        return tuple(map(tuple, stages))

    def before(self, pod: Pod) -> Pod | None:
        """Return the last pod before *pod* in the file that is on one of its GPUs."""
        if not self.uses_gpus:
            return None
        earlier = self.pods[: self.pods.index(pod)]
        sharing = [one for one in earlier if set(one.replica.gpus) & set(pod.replica.gpus)]
        return sharing[-1] if sharing else None

    def shares_gpu(self, pod: Pod) -> bool:
        """Return whether another pod is on one of the GPUs of *pod*."""
        own = set(pod.replica.gpus)
        return any(own & set(other.replica.gpus) for other in self.pods if other != pod)

    @property
    def endpoints(self) -> str:
        """The load balancer's VLLM_ENDPOINTS."""
        return ",".join(f"http://{pod.service}:{pod.listens}" for pod in self.pods)

    @property
    def resources(self) -> Resources:
        gpus = {gpu for replica in self.fleet.replicas for gpu in replica.gpus}
        ports = {self.port, *(pod.published for pod in self.pods)}
        return Resources(frozenset(ports), frozenset(gpus if self.uses_gpus else ()))

    def _pod(self, replica: FleetReplica) -> Pod:
        shift = 0 if self.uses_gpus else self.environment.shift
        service = f"vllm-{replica.name}"
        suffix = "-kvcached" if self.engine is EngineKind.kvcached else self.environment.suffix
        return Pod(
            replica=replica,
            model=self.fleet.model(replica.model),
            service=service,
            container=service + suffix,
            published=replica.port + shift,
            # The simulator listens where the fleet file says.
            listens=replica.port if self.engine is EngineKind.simulator else ENGINE_PORT,
        )


def environment_named(name: str) -> Environment:
    """Return the environment called *name*.

    Raises:
        SettingInvalid: there is none.
    """
    if name not in ENVIRONMENTS:
        raise SettingInvalid(
            f"environment {name!r} is unknown; it must be {' or '.join(ENVIRONMENTS)}"
        )
    return ENVIRONMENTS[name]


def default_engine(environment: Environment, fleet: Fleet) -> EngineKind:
    """Return the default: KVCached in the managed environment where there are GPUs, else vLLM."""
    has_gpus = any(replica.gpus for replica in fleet.replicas)
    return EngineKind.kvcached if environment is MANAGED and has_gpus else EngineKind.vllm


def _stage_of(pod: Pod, stages: list[list[Pod]]) -> int:
    return next(number for number, stage in enumerate(stages) if pod in stage)


def _counted(what: str, numbers: list[int]) -> str:
    return f"{what}{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
