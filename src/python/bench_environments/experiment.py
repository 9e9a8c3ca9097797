"""One call that starts environments as processes, proves, warms up, measures and stops them.

Time on a machine with GPUs is scarce: everything is written as it comes, a step that is done is not
done again by a later call with the same folder, and a call ends before its time is over, with what
it has.  Input and output.
"""

import asyncio
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bench_environments.deployment import EngineKind
from bench_environments.gpu_log import log_gpus, read_gpus
from bench_environments.plan import PlannedExperiment, PlannedLoad, fits_side_by_side
from bench_environments.processes import EngineChoices, ProcessFleet, ProcessStart, process_fleet
from bench_environments.started import Launcher, all_of, get
from servekit.errors.tree import ServeError, SettingInvalid
from servekit.fleet.fleet import Fleet
from servekit.launch.child import Child

# What stopping, writing reports and the caller's own end take.
_RESERVE_S = 20.0

_BALANCER_START_S = 60.0
_WARMUP_S = 90.0
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ExperimentOptions:
    """How an experiment is run on this machine.

    Attributes:
        vllm: how vLLM is started, for each kind of engine.
        gpu_log: command that prints a line for each GPU; see `gpu_log`.
        gpu_memory: command of kvcached_engine that prints used memory; empty for its own.
        time_limit_s: after which the call has ended.
        swap: give the first kind of engine the last GPUs.
    """

    folder: Path
    vllm: Mapping[EngineKind, tuple[str, ...]]
    gpu_log: str
    gpu_memory: str
    models: str
    load_format: str | None
    time_limit_s: float
    swap: bool = False


@dataclass
class ExperimentLog:
    """`experiment.json`: what was asked for, and what became of it, as far as it has come."""

    file: Path
    content: dict[str, Any] = field(default_factory=dict)

    def say(self, **said: Any) -> None:
        self.content |= said
        self._write()

    def add(self, name: str, **said: Any) -> None:
        self.content.setdefault(name, []).append(said)
        self._write()

    def _write(self) -> None:
        new = self.file.with_suffix(".new")
        new.write_bytes(msgspec.json.format(msgspec.json.encode(self.content), indent=1))
        new.replace(self.file)


class Experiment:
    """One call."""

    def __init__(
        self,
        plan: PlannedExperiment,
        fleet: Fleet,
        options: ExperimentOptions,
        launcher: Launcher,
        show: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._fleet = fleet
        self._options = options
        self._launcher = launcher
        self._show = show
        self._clock = launcher.clock
        self._start_s = self._clock.now()
        self._end_s = self._start_s + options.time_limit_s - _RESERVE_S
        options.folder.mkdir(parents=True, exist_ok=True)
        self._log = ExperimentLog(options.folder / "experiment.json")

    async def run(self) -> int:
        """Return the number of steps that were not done.

        Raises:
            SettingInvalid: the machine has too few GPUs.
        """
        gpus = await read_gpus(self._options.gpu_log)
        groups = self._groups(len(gpus))
        self._log.say(
            plan=msgspec.to_builtins(self._plan),
            gpus=gpus,
            side_by_side=len(groups) == 1 and len(groups[0]) > 1,
            swap=self._options.swap,
            time_limit_s=self._options.time_limit_s,
        )
        watching = asyncio.create_task(
            log_gpus(
                self._options.gpu_log,
                self._options.folder / "gpus.csv",
                self._clock,
                self._start_s,
            )
        )
        try:
            for number, group in enumerate(groups):
                left_s = self._end_s - self._clock.now()
                end_s = self._clock.now() + left_s / (len(groups) - number)
                await self._measure_group(group, end_s)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            self._log.say(took_s=round(self._clock.now() - self._start_s, 1))
        return sum(step["outcome"] != "done" for step in self._log.content.get("steps", []))

    def _groups(self, gpus_here: int) -> list[list[ProcessFleet]]:
        """Return the kinds of engine that are up together: all, or one after the other."""
        kinds = [kind for kind in self._plan.engines if self._open_loads(kind)]
        wanted = {gpu for replica in self._fleet.replicas for gpu in replica.gpus}
        size = max(wanted) + 1 if wanted else 0
        if size > gpus_here:
            raise SettingInvalid(
                f"fleet {self._plan.fleet} needs {size} GPUs and this machine has {gpus_here}; "
                "choose a plan with another fleet"
            )
        together = fits_side_by_side(size, len(self._plan.engines), gpus_here)
        fleets = [self._process_fleet(kind, size if together else 0) for kind in kinds]
        return [fleets] if together else [[one] for one in fleets]

    def _process_fleet(self, kind: EngineKind, gpus_apart: int) -> ProcessFleet:
        row = self._plan.engines.index(kind)
        place = len(self._plan.engines) - 1 - row if self._options.swap else row
        return process_fleet(
            self._plan.fleet,
            self._fleet,
            kind,
            row=row,
            first_gpu=place * gpus_apart,
            choices=EngineChoices(
                models=self._options.models,
                load_format=self._options.load_format,
                prefix_caching=kind not in self._plan.without_prefix_caching,
                environ=self._plan.environ,
            ),
        )

    def _open_loads(self, kind: EngineKind) -> list[PlannedLoad]:
        """Return what is still to be measured."""
        loads = self._plan.for_kind(kind)
        return [load for load in loads if not self._is_done(load, kind)]

    def _is_done(self, load: PlannedLoad, kind: EngineKind) -> bool:
        return (self._folder_of(load, kind) / "done").exists()

    def _folder_of(self, load: PlannedLoad, kind: EngineKind) -> Path:
        return self._options.folder / load.name / kind.value

    async def _measure_group(self, group: Sequence[ProcessFleet], end_s: float) -> None:
        async with AsyncExitStack() as stack:
            begun_s = self._clock.now()
            came = await asyncio.gather(*(self._bring_up(one, stack) for one in group))
            up = [one for one, ok in zip(group, came, strict=True) if ok]
            self._show(f"{len(up)} of {len(group)} environments serve")
            self._log.say(start_s=round(self._clock.now() - begun_s, 1))
            await self._prove(up)
            await asyncio.gather(*(self._warm_up(one) for one in up))
            for load in self._plan.loads:
                await self._measure_load(load, up, end_s)
            await self._prove(up, when="end")
            self._show("stopping")

    async def _bring_up(self, fleet: ProcessFleet, stack: AsyncExitStack) -> bool:
        """Start all engines of *fleet* at once, then its load balancers."""
        own = await stack.enter_async_context(AsyncExitStack())
        try:
            await all_of(
                *(
                    asyncio.ensure_future(self._serve_engine(fleet, engine, own))
                    for engine in fleet.engines
                )
            )
            await all_of(
                *(
                    asyncio.ensure_future(self._serve_balancer(fleet, balancer, own))
                    for balancer in fleet.balancers
                )
            )
        except ServeError as error:
            self._show(f"{fleet.kind.value}: {error}")
            self._log.add("failures", engine=fleet.kind.value, error=str(error))
            await own.aclose()
            return False
        return True

    async def _serve_engine(
        self, fleet: ProcessFleet, engine: ProcessStart, stack: AsyncExitStack
    ) -> Child:
        log = self._options.folder / "logs" / fleet.kind.value / f"{engine.name}.log"
        begun_s = self._clock.now()
        argv = self._engine_command(fleet.kind, engine)
        child = await self._launcher.serve(stack, engine, argv, log, self._plan.start_s)
        took_s = round(self._clock.now() - begun_s, 1)
        self._show(f"{fleet.kind.value} {engine.name} serves after {took_s} s")
        self._log.add("engines", engine=fleet.kind.value, replica=engine.name, start_s=took_s)
        return child

    def _engine_command(self, kind: EngineKind, engine: ProcessStart) -> tuple[str, ...]:
        vllm = self._options.vllm[kind]
        if kind is not EngineKind.kvcached:
            return (*vllm, *engine.argv)
        memory = self._options.gpu_memory
        program = (sys.executable, "-m", "kvcached_engine.main")  # pants: no-infer-dep
        own = ("--gpu-memory", memory) if memory else ()
        return (*program, "--vllm", shlex.join(vllm), *own, *engine.argv)

    async def _serve_balancer(
        self, fleet: ProcessFleet, balancer: ProcessStart, stack: AsyncExitStack
    ) -> Child:
        log = self._options.folder / "logs" / fleet.kind.value / f"lb-{balancer.name}.log"
        argv = (sys.executable, "-m", *balancer.argv)
        return await self._launcher.serve(stack, balancer, argv, log, _BALANCER_START_S)

    async def _prove(self, up: Sequence[ProcessFleet], when: str = "start") -> None:
        """Keep what the engines say of themselves, and what the GPUs hold."""
        gpus = await read_gpus(self._options.gpu_log)
        for fleet in up:
            folder = self._options.folder / "proofs" / fleet.kind.value
            folder.mkdir(parents=True, exist_ok=True)
            for engine in fleet.engines:
                await self._keep(f"{engine.url}/metrics", folder / f"{engine.name}-{when}.txt")
            for engine, page in zip(fleet.engines, fleet.pages, strict=False):
                file = folder / f"{engine.name}-kvcached-{when}.txt"
                await self._keep(f"{page}/metrics", file)
            used = {row[0]: int(row[1]) * _MIB for row in gpus if int(row[0]) in fleet.gpus}
            self._log.add("proofs", engine=fleet.kind.value, when=when, used_bytes=used)

    async def _keep(self, url: str, file: Path) -> None:
        _, body = await get(url, self._clock)
        file.write_bytes(body)  # noqa: ASYNC240  a few kilobytes

    async def _warm_up(self, fleet: ProcessFleet) -> None:
        folder = self._options.folder / "warmup" / fleet.kind.value
        for balancer in fleet.balancers:
            words = ("run", "--url", balancer.url, *self._plan.warmup, "--output-dir", str(folder))
            code = await self._bench(words, folder / f"{balancer.name}.log", _WARMUP_S)
            self._log.add("warmup", engine=fleet.kind.value, balancer=balancer.name, code=code)

    async def _measure_load(
        self, load: PlannedLoad, up: Sequence[ProcessFleet], end_s: float
    ) -> None:
        kinds = [
            fleet
            for fleet in up
            if load in self._plan.for_kind(fleet.kind) and not self._is_done(load, fleet.kind)
        ]
        left_s = end_s - self._clock.now()
        if left_s < load.expected_s:
            for fleet in kinds:
                self._step(load, fleet.kind, f"left out: {left_s:.0f} s left", 0.0)
            return
        await asyncio.gather(*(self._compare(load, fleet, left_s) for fleet in kinds))

    async def _compare(self, load: PlannedLoad, fleet: ProcessFleet, left_s: float) -> None:
        folder = self._folder_of(load, fleet.kind)
        folder.mkdir(parents=True, exist_ok=True)
        begun_s = self._clock.now()
        words = _comparison(load, fleet, folder)
        code = await self._bench(words, folder / "output.log", left_s)
        if code == 0:
            (folder / "done").touch()
        outcome = "done" if code == 0 else f"exit status {code}"
        self._step(load, fleet.kind, outcome, self._clock.now() - begun_s)

    def _step(self, load: PlannedLoad, kind: EngineKind, outcome: str, took_s: float) -> None:
        self._show(f"{load.name} on {kind.value}: {outcome} ({took_s:.0f} s)")
        self._log.add(
            "steps", load=load.name, engine=kind.value, outcome=outcome, took_s=round(took_s, 1)
        )

    async def _bench(self, words: Sequence[str], log: Path, timeout_s: float) -> int:
        """Run the benchmark; one that takes too long is asked to end and keeps what it has."""
        argv = (sys.executable, "-m", "bench.runner", *words)  # pants: no-infer-dep
        async with AsyncExitStack() as stack:
            child = await self._launcher.start(stack, argv, {}, log)
            try:
                return await asyncio.wait_for(child.wait(), timeout_s)
            except TimeoutError:
                return await child.stop(_RESERVE_S)


def _comparison(load: PlannedLoad, fleet: ProcessFleet, folder: Path) -> tuple[str, ...]:
    """Return the arguments of the benchmark: both load balancers before the same engines."""
    arms = [f"{fleet.kind.value}-{balancer.name}={balancer.url}" for balancer in fleet.balancers]
    engines = ",".join(engine.url for engine in fleet.engines)
    checks = ["--engines", engines] * len(arms)
    if fleet.pages:
        checks += ["--expect-kvcached", "both"]
        checks += ["--kvcached-metrics", ",".join(fleet.pages)] * len(arms)
    return ("compare", *arms, *load.options, *checks, "--output-dir", str(folder))
