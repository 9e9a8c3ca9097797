"""Which model runs where: the fleet file as a value that contradicts itself nowhere.  Pure but for
`load_fleet`, which reads the file."""

from collections import Counter
from collections.abc import Hashable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from servekit.errors.tree import FleetInvalid


class FleetModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model and how every replica of it is started.

    Attributes:
        name: the id that clients send.
        short_name: a name for containers and results, such as `llama-8b`.
        max_model_len: prompt and output tokens of one request, together.
        tensor_parallel_size: GPUs that one replica spans.
        gpu_memory_utilization: share of each GPU's memory that the engine may take.
        policy: the routing policy for this model, instead of the load balancer's default.
        weights: what the engine loads where that is not `name`: a hub id, or a folder's path.
        engine_args: further arguments of `vllm serve`; simulations follow or refuse each.
        config: its config.json, inline or a path; only simulations of unknown models ask for it.
    """

    name: str
    short_name: str
    max_model_len: int = 8192
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.95
    policy: str | None = None
    weights: str | None = None
    engine_args: tuple[str, ...] = ()
    config: dict[str, Any] | str | None = None


class FleetReplica(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engine: the model it serves, the GPUs it runs on and where it listens.

    Attributes:
        gpus: their indices; empty for one that runs on the CPU.
        gpu: the type of its GPUs, by a name of `servekit/enginesim/hardware.py`; only simulations
            ask for it.
    """

    name: str
    model: str
    gpus: tuple[int, ...]
    port: int
    host: str = "127.0.0.1"
    gpu: str = "h100"

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


class Fleet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Models and their replicas.

    Raises:
        FleetInvalid: on construction, where a name or port is used twice, a GPU is given away more
            than once over, a replica names an unknown model, or its GPUs do not match the model's
            tensor parallel size.
    """

    models: tuple[FleetModel, ...]
    replicas: tuple[FleetReplica, ...]

    def __post_init__(self) -> None:
        _require_once("model", (model.name for model in self.models), "names must be unique")
        _require_once("short_name", (m.short_name for m in self.models), "names must be unique")
        _require_once("replica", (r.name for r in self.replicas), "names must be unique")
        _require_ports_once(self.replicas)
        for replica in self.replicas:
            _check_replica(replica, self.models)
        _require_gpus_to_suffice(self.models, self.replicas)
        served = {replica.model for replica in self.replicas}
        for model in self.models:
            _check_model(model, served)

    def model(self, name: str) -> FleetModel:
        """Return the model called *name*.

        Raises:
            KeyError: there is none.
        """
        return next((m for m in self.models if m.name == name), None) or _no_model(name)

    def replicas_of(self, model: str) -> tuple[FleetReplica, ...]:
        """Return the replicas that serve *model*, in the file's order."""
        return tuple(replica for replica in self.replicas if replica.model == model)


def _no_model(name: str) -> FleetModel:
    raise KeyError(name)


def parse_fleet(text: str, source: str = "the fleet file") -> Fleet:
    """Return the fleet that *text*, YAML, describes.  *source* names it in errors.

    Raises:
        FleetInvalid: it is not YAML, not a fleet, or contradicts itself.
    """
    try:
        # The decoder of msgspec needs PyYAML, which reports syntax errors in its own type.
        raw = msgspec.yaml.decode(text)
    except msgspec.DecodeError as error:
        where = " ".join(str(error).split())
        raise FleetInvalid(f"{source}: not YAML: {where}") from error
    try:
        return msgspec.convert(raw, Fleet)
    except msgspec.ValidationError as error:
        raise FleetInvalid(f"{source}: {error}") from error
    except FleetInvalid as error:
        raise FleetInvalid(f"{source}: {error}") from error


def load_fleet(name_or_path: str) -> Fleet:
    """Return a built-in fleet by name, such as `h100`, or any fleet by the path of its file.

    Raises:
        FleetInvalid: there is no such file, or it is not a fleet.
    """
    known = resources.files("servekit.fleet") / "fleets"
    own = known / f"{name_or_path}.yaml"
    if own.is_file():
        return parse_fleet(own.read_text(), f"fleet {name_or_path!r}")
    path = Path(name_or_path)
    if not path.is_file():
        names = ", ".join(sorted(f.name.removesuffix(".yaml") for f in known.iterdir()))
        raise FleetInvalid(
            f"fleet {name_or_path!r} is neither a file nor a built-in fleet; built-in: {names}"
        )
    try:
        return parse_fleet(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise FleetInvalid(f"{path}: cannot be read: {error}") from error


def _require_once(what: str, values: Iterable[Hashable], remedy: str) -> None:
    for value, count in Counter(values).items():
        if count > 1:
            raise FleetInvalid(f"duplicate {what} {value!r} ({count} times); {remedy}")


def _require_ports_once(replicas: tuple[FleetReplica, ...]) -> None:
    owner: dict[tuple[str, int], str] = {}
    for replica in replicas:
        first = owner.setdefault((replica.host, replica.port), replica.name)
        if first != replica.name:
            raise FleetInvalid(
                f"replicas {first!r} and {replica.name!r} both listen on {replica.host}:"
                f"{replica.port}; ports must be unique on a host"
            )


def _require_gpus_to_suffice(
    models: tuple[FleetModel, ...], replicas: tuple[FleetReplica, ...]
) -> None:
    share_of = {model.name: model.gpu_memory_utilization for model in models}
    users: dict[tuple[str, int], list[FleetReplica]] = {}
    for replica in replicas:
        for gpu in replica.gpus:
            users.setdefault((replica.host, gpu), []).append(replica)
    for (host, gpu), sharing in users.items():
        _check_sharing(f"GPU {gpu} of {host}", sharing, share_of)


def _check_sharing(gpu: str, sharing: list[FleetReplica], share_of: dict[str, float]) -> None:
    share = sum(share_of[replica.model] for replica in sharing)
    # 0.3 + 0.3 + 0.4 is more than 1.0 in binary.
    if len(sharing) > 1 and share > 1.0 + 1e-9:
        names = " and ".join(repr(replica.name) for replica in sharing)
        raise FleetInvalid(
            f"{gpu} is used by {names}, which take {share:.2f} of its "
            "memory; give each replica a GPU, or lower gpu_memory_utilization"
        )


def _check_replica(replica: FleetReplica, models: tuple[FleetModel, ...]) -> None:
    model = next((m for m in models if m.name == replica.model), None)
    if model is None:
        known = ", ".join(m.name for m in models) or "none"
        raise FleetInvalid(
            f"replica {replica.name!r} serves {replica.model!r}, which is not among the models: "
            f"{known}"
        )
    for gpu, times in Counter(replica.gpus).items():
        if times > 1:
            raise FleetInvalid(
                f"GPU {gpu} of {replica.host} is listed twice by {replica.name!r}; list it once"
            )
    on_cpu = not replica.gpus and model.tensor_parallel_size == 1
    if not on_cpu and len(replica.gpus) != model.tensor_parallel_size:
        raise FleetInvalid(
            f"replica {replica.name!r} has GPUs {list(replica.gpus)}, but {model.short_name!r} "
            f"needs {model.tensor_parallel_size} (tensor_parallel_size)"
        )
    if not 0 < replica.port < 65536:
        raise FleetInvalid(
            f"replica {replica.name!r} has port {replica.port}; it must be from 1 to 65535"
        )
    if any(gpu < 0 for gpu in replica.gpus):
        raise FleetInvalid(
            f"replica {replica.name!r} has GPU {min(replica.gpus)}; GPU indices start at 0"
        )


def _check_model(model: FleetModel, served: set[str]) -> None:
    if model.name not in served:
        raise FleetInvalid(f"model {model.name!r} has no replica; add one or remove the model")
    if model.max_model_len < 1 or model.tensor_parallel_size < 1:
        raise FleetInvalid(
            f"model {model.name!r}: max_model_len and tensor_parallel_size must be at least 1"
        )
    if not 0.0 < model.gpu_memory_utilization <= 1.0:
        raise FleetInvalid(
            f"model {model.name!r}: gpu_memory_utilization is {model.gpu_memory_utilization}; "
            "it must be above 0 and at most 1"
        )
