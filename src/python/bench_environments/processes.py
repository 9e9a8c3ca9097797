"""An environment as processes on this machine, where there is no Docker.  Pure.

Each kind of engine has both load balancers before the same engines: what they are compared for is
the routing, and the engines of one kind need their GPUs once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from bench_environments.deployment import (
    ENVIRONMENTS,
    EngineKind,
    FleetDeployment,
    Pod,
)
from bench_environments.engines import arguments_of
from servekit.engine.arguments import EngineArguments
from servekit.fleet.fleet import Fleet

# Ports of the second kind of engine are this much higher, with those of its load balancers.
_PORTS_APART = 20

# Of kvcached_engine's page, which says whether memory follows the load.
_PROOF_PORTS_APART = 1400


@dataclass(frozen=True, slots=True)
class ProcessStart:
    """One process.

    Attributes:
        health: URL that answers 200 once it serves.
        argv: without the interpreter or program, which the machine knows.
        environ: added to the environment.
    """

    name: str
    url: str
    health: str
    argv: tuple[str, ...]
    environ: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ProcessFleet:
    """The engines of one kind, and both load balancers before them.

    Attributes:
        pages: URLs of what proves KVCached, one per engine; empty without it.
    """

    kind: EngineKind
    gpus: tuple[int, ...]
    engines: tuple[ProcessStart, ...]
    balancers: tuple[ProcessStart, ...]
    pages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EngineChoices:
    """How engines are started on this machine.

    Attributes:
        models: folder with a folder for each model's short name; empty for hub ids.
        load_format: of vLLM; `dummy` for random weights.
        prefix_caching: in the engines of one kind.
        environ: added to the environment of every engine.
    """

    models: str = ""
    load_format: str | None = None
    prefix_caching: bool = True
    environ: Mapping[str, str] | None = None


def process_fleet(
    fleet_name: str,
    fleet: Fleet,
    kind: EngineKind,
    *,
    row: int,
    first_gpu: int,
    choices: EngineChoices,
) -> ProcessFleet:
    """Return what *fleet* is as processes with engines of *kind*.

    *row* is 0 or 1: of two kinds that are up at the same time each has its own ports.  *first_gpu*
    is added to the GPUs of the fleet file.

    Raises:
        SettingInvalid: the engine cannot serve the fleet.
    """
    environment = ENVIRONMENTS["managed" if kind is EngineKind.kvcached else "baseline"]
    deployment = FleetDeployment(environment, fleet_name, fleet, kind, environment.port)
    shift = row * _PORTS_APART
    engines = tuple(_engine(deployment, pod, shift, first_gpu, choices) for pod in deployment.pods)
    gpus = sorted({gpu + first_gpu for pod in deployment.pods for gpu in pod.replica.gpus})
    return ProcessFleet(
        kind=kind,
        gpus=tuple(gpus),
        engines=engines,
        balancers=tuple(_balancer(name, engines, shift) for name in ENVIRONMENTS),
        pages=tuple(
            f"http://127.0.0.1:{_proof_port(pod, shift)}"
            for pod in deployment.pods
            if kind is EngineKind.kvcached
        ),
    )


def _engine(
    deployment: FleetDeployment, pod: Pod, shift: int, first_gpu: int, choices: EngineChoices
) -> ProcessStart:
    port = pod.replica.port + shift
    url = f"http://127.0.0.1:{port}"
    said = dict(choices.environ or {})
    if pod.replica.gpus:
        said["CUDA_VISIBLE_DEVICES"] = ",".join(str(gpu + first_gpu) for gpu in pod.replica.gpus)
    health = f"{url}/health"
    if deployment.engine is EngineKind.kvcached:
        page = _proof_port(pod, shift)
        health = f"http://127.0.0.1:{page}/health"
        said |= {
            "ENABLE_KVCACHED": "true",
            "KVCACHED_IPC_NAME": f"kvcached_{pod.replica.name}",
            "KVCACHED_METRICS_HOST": "127.0.0.1",
            "KVCACHED_METRICS_PORT": str(page),
        }
    return ProcessStart(
        name=pod.replica.name,
        url=url,
        health=health,
        argv=_arguments(deployment, pod, port, choices).argv(),
        environ=said,
    )


def _arguments(
    deployment: FleetDeployment, pod: Pod, port: int, choices: EngineChoices
) -> EngineArguments:
    own = arguments_of(deployment, pod)
    if choices.models:
        own = replace(
            own,
            model=f"{choices.models}/{pod.model.short_name}",
            served_model_names=(pod.model.name,),
        )
    return replace(
        own,
        host="127.0.0.1",
        port=port,
        load_format=choices.load_format,
        enable_prefix_caching=choices.prefix_caching,
    )


def _balancer(name: str, engines: tuple[ProcessStart, ...], shift: int) -> ProcessStart:
    port = ENVIRONMENTS[name].port + shift
    url = f"http://127.0.0.1:{port}"
    endpoints = ",".join(engine.url for engine in engines)
    return ProcessStart(
        name=name,
        url=url,
        health=f"{url}/readyz",
        argv=(f"loadbalancer.{name}", "--endpoints", endpoints, "--port", str(port)),
        environ={"METRICS_POLL_INTERVAL": "0.2"},
    )


def _proof_port(pod: Pod, shift: int) -> int:
    return pod.replica.port + shift + _PROOF_PORTS_APART
