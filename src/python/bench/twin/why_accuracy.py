"""Is the first cause that is named the right one?  Input and output.

Two arms of simulated engines are the same but for one fault that is put into the second: slower
engines, no prefix cache, a policy that sends all requests to one replica, a proxy that holds
answers back, or one that lets few bytes through.  Each run is explained, and the first cause
counted.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench.loadgen.progress import NoProgress
from bench.loadgen.run_result import LoadResult, RunResult
from bench.loadgen.session import Endpoint, book_for, compare_arms, run_stoppable
from bench.target.arms import Arm
from bench.target.processes import Program, stopped_at_the_end
from bench.twin.causes import BUFFERING, CACHE, ENGINE, LINK, ROUTING, Explanation, explain
from bench.workload.generators import TokenLengths
from bench.workload.registry import WorkloadSpec, make_schedule
from bench.workload.schedule import Part, PartLayout, Schedule
from servekit.fleet.fleet import load_fleet

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
ARMS = ("as it is", "with a fault")
_BALANCER = "managed"

# Engines this much slower than an H100 make a real queue of few requests.
_SPEED = 0.25
_RATE = 7.0
_LAYOUT = PartLayout(parts=2, part_s=3.0, warmup_s=2.0, drain=True)
_LENGTHS = TokenLengths(400.0, 100.0, 60.0, 15.0)

_FLEET = """\
models:
  - name: {model}
    short_name: llama-8b
    engine_args: {args}
replicas:
  - {{name: llama-8b-1, model: {model}, gpus: [0], port: 8001}}
  - {{name: llama-8b-2, model: {model}, gpus: [1], port: 8002}}
"""


class ArmFault(msgspec.Struct, frozen=True, kw_only=True):
    """What is done to the second arm, and what an explanation must name first.

    Attributes:
        path: arguments of `bench.target.slow_path`; empty for no proxy.
    """

    name: str
    cause: str
    speed: float = _SPEED
    engine_args: tuple[str, ...] = ()
    policy: str = "queue"
    path: tuple[str, ...] = ()


NONE = ArmFault(name="no fault", cause="")
FAULTS = (
    ArmFault(name="slow engine", cause=ENGINE, speed=_SPEED * 0.7),
    ArmFault(name="cold cache", cause=CACHE, engine_args=("--no-enable-prefix-caching",)),
    # It knows only the last poll, and sends everything to the first replica meanwhile.
    ArmFault(name="bad routing", cause=ROUTING, policy="least-waiting"),
    ArmFault(name="buffering proxy", cause=BUFFERING, path=("--hold",)),
    ArmFault(name="throttled link", cause=LINK, path=("--bytes-per-s", "5000")),
)


class FaultRuns(msgspec.Struct, frozen=True, kw_only=True):
    """What was named first in the runs with one fault."""

    fault: str
    cause: str
    named: tuple[str, ...]

    @property
    def right(self) -> int:
        return self.named.count(self.cause)


def measure(
    runs: int, folder: Path, told: Callable[[str, Explanation | None], None]
) -> list[FaultRuns]:
    """Return what is named first in *runs* runs of each fault; *told* hears of each run.

    Raises:
        EngineExited, EngineNotReady: a program did not start.
    """
    found = []
    for fault in FAULTS:
        named = []
        with arms_with(fault, folder) as arms:
            for seed in range(1, runs + 1):
                explained = _explained(arms, seed)
                told(fault.name, explained)
                named.append(explained.first if explained else "nothing")
        found.append(FaultRuns(fault=fault.name, cause=fault.cause, named=tuple(named)))
    return found


def _explained(arms: Sequence[Arm], seed: int) -> Explanation | None:
    schedule = _schedule(seed)
    warmup, *parts = _LAYOUT.split(schedule)
    # The engines' counters begin when all that the warm-up asked for has been answered.
    _replayed(arms, schedule, [warmup])
    measured = _replayed(arms, schedule, parts)
    run = RunResult(
        **msgspec.structs.asdict(measured),
        arms=ARMS,
        schedule=schedule,
        layout=_LAYOUT,
        manifest={},
    )
    return explain(run, load_fleet("h100"))


def _replayed(arms: Sequence[Arm], schedule: Schedule, parts: Sequence[Part]) -> LoadResult:
    endpoint = Endpoint()
    return run_stoppable(
        lambda given: compare_arms(
            arms,
            None,
            parts,
            given,
            drain=True,
            rng=random.Random(schedule.seed),
        ),
        book_for(schedule, endpoint),
        NoProgress(),
        endpoint,
    )


def _schedule(seed: int) -> Schedule:
    return make_schedule(
        WorkloadSpec(
            workload="shared-prefix",
            shares={MODEL: 1.0},
            requests=round(_RATE * _LAYOUT.length_s * 1.3),
            rate=_RATE,
            arrivals="poisson",
            seed=seed,
            lengths=_LENGTHS,
        )
    )


@contextmanager
def arms_with(fault: ArmFault, folder: Path) -> Iterator[list[Arm]]:
    """Give two arms, the second of them with *fault*, while the block lasts."""
    with stopped_at_the_end() as programs:
        yield [
            _start(name, one, programs, folder)
            for name, one in zip(ARMS, (NONE, fault), strict=True)
        ]


def _start(name: str, fault: ArmFault, programs: list[Program], folder: Path) -> Arm:
    place = folder / fault.name.replace(" ", "-")
    place.mkdir(parents=True, exist_ok=True)
    fleet = place / "fleet.yaml"
    args = "[" + ", ".join(fault.engine_args) + "]"
    fleet.write_text(_FLEET.format(model=MODEL, args=args))
    argv = ["simulator.main", "--fleet", str(fleet), "--ports", "auto"]  # pants: no-infer-dep
    engines = Program(
        f"simulator {name}",
        [*argv, "--speed", str(fault.speed)],
        log=place / "engines.log",
        yields=True,
    )
    programs.append(engines)
    replicas: dict[str, str] = engines.ready()["replicas"]
    front = Program(
        f"load balancer {name}",
        [
            *(f"loadbalancer.{_BALANCER}", "--endpoints", ",".join(replicas.values())),
            *("--port", "0", "--policy", fault.policy),
        ],
        log=place / "front.log",
        yields=True,
    )
    programs.append(front)
    url: str = front.ready()["url"]
    if fault.path:
        argv = ["bench.target.slow_path", "--to", url, *fault.path]
        programs.append(Program(f"proxy {name}", argv, log=place / "proxy.log", yields=True))
        url = programs[-1].ready()["url"]
    return Arm(name=name, url=url, replicas=replicas)
