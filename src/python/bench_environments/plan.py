"""An experiment as a value: which engines, which loads, in which order.  Pure but for `load_plan`.

fleet: h200_shared
engines: [vllm, kvcached]
loads:
  - {name: burst, expected_s: 120, options: [--workload, synthetic, --rate, "30"]}
"""

from importlib import resources
from pathlib import Path

import msgspec

from bench_environments.deployment import EngineKind
from servekit.errors.tree import SettingInvalid


class PlannedLoad(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One comparison of the load balancers, made with every kind of engine.

    Attributes:
        options: of `bench.runner compare`, after the arms.
        expected_s: how long it takes; it is not begun with less time left.
        engines: the kinds of engine it is for; empty for all.
    """

    name: str
    options: tuple[str, ...]
    expected_s: float
    engines: tuple[EngineKind, ...] = ()


class PlannedExperiment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Attributes:
    engines: the rows of the 2x2; the first is the baseline.
    without_prefix_caching: kinds of engine that are started without it.
    environ: added to the environment of every engine.
    warmup: options of `bench.runner run` for each load balancer, before anything is measured.
    start_s: how long all engines may take to serve.
    """

    fleet: str
    engines: tuple[EngineKind, ...]
    loads: tuple[PlannedLoad, ...]
    without_prefix_caching: tuple[EngineKind, ...] = ()
    environ: dict[str, str] = {}
    warmup: tuple[str, ...] = ("--num-requests", "48", "--concurrency", "12")
    start_s: float = 300.0

    def __post_init__(self) -> None:
        names = [load.name for load in self.loads]
        if len(set(names)) != len(names) or not all(_is_name(name) for name in names):
            raise SettingInvalid(
                f"the plan's loads are called {', '.join(names)}; names must be unique, of "
                "letters, digits, - and _"
            )
        if not self.engines or len(set(self.engines)) != len(self.engines):
            raise SettingInvalid("the plan's engines: name one kind or two different ones")
        if not self.loads:
            raise SettingInvalid("the plan has no loads; add one")

    def for_kind(self, kind: EngineKind) -> tuple[PlannedLoad, ...]:
        return tuple(load for load in self.loads if not load.engines or kind in load.engines)


def _is_name(text: str) -> bool:
    return text.replace("-", "").replace("_", "").isalnum()


def load_plan(name_or_path: str) -> PlannedExperiment:
    """Return a built-in plan by name, such as `h200_shared`, or the plan in a file.

    Raises:
        SettingInvalid: there is no such plan, or it cannot be used.
    """
    known = resources.files("bench_environments") / "plans"
    own = known / f"{name_or_path}.yaml"
    file = own if own.is_file() else Path(name_or_path)
    if not file.is_file():
        names = ", ".join(sorted(f.name.removesuffix(".yaml") for f in known.iterdir()))
        raise SettingInvalid(
            f"plan {name_or_path!r} is neither a file nor a built-in plan; built-in: {names}"
        )
    try:
        return msgspec.yaml.decode(file.read_bytes(), type=PlannedExperiment)
    except (OSError, msgspec.DecodeError) as error:
        raise SettingInvalid(f"{name_or_path}: not a plan: {error}") from error


def fits_side_by_side(gpus_per_kind: int, kinds: int, gpus_here: int) -> bool:
    """Whether each kind of engine has GPUs that no other needs."""
    return gpus_per_kind * kinds <= gpus_here
