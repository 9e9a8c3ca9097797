"""How far a start has come, for everybody who asks.  Pure but for the clock."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from servekit.timing.clock import Clock
from servekit.timing.timeline import Stage, Timeline

# Names of the seed's stages: dashboards and log filters know them.
INITIALIZATION = "Container initialization"
SYSTEM = "System configuration"
ENVIRONMENT = "Environment setup"
ENGINE = "vLLM server startup"
PREWARM = "Pre-warming script execution"
READY = "Ready to serve"


class StartupProgress:
    """The stages of a container's start, and the engine's phases within one of them.

    Attributes:
        stage: the stage under way.
        phase: the engine's phase under way; empty before and after.
        ready: whether the engine is up and warm.
        facts: what else was found, by name; no secrets.
    """

    def __init__(self, clock: Clock, *, started_s: float | None = None) -> None:
        self.stages = Timeline(clock, started_s=started_s)
        self.phases: list[Stage] = []
        self.stage = INITIALIZATION
        self.phase = ""
        self.ready = False
        self.facts: dict[str, object] = {}

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Time the block as the stage *name*, and say so meanwhile."""
        self.stage = name
        with self.stages.stage(name):
            yield

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        """Time the block as a stage of its own, within the one under way."""
        outer = self.stage
        with self.during(name):
            yield
        self.stage = outer

    def to_json(self) -> bytes:
        """Return everything: `{"ready", "stage", "phase", "total_s", "stages", "phases", …}`."""
        return json.dumps(
            {
                "ready": self.ready,
                "stage": self.stage,
                "phase": self.phase,
                "total_s": self.total_s,
                "stages": [_as_json(stage) for stage in self.stages.stages],
                "phases": [_as_json(stage) for stage in self.phases],
                **self.facts,
            }
        ).encode()

    @property
    def total_s(self) -> float:
        """Seconds from the start to readiness; until then, to now."""
        return self.stages.total_s if self.ready else self.stages.elapsed_s

    def to_metrics(self) -> bytes:
        """Return the start as a Prometheus exposition."""
        lines = [
            *_gauge("servekit_ready", "1 once the engine is up and warm", {"": int(self.ready)}),
            *_gauge("servekit_startup_seconds", "from the start to readiness", {"": self.total_s}),
            *_gauge(
                "servekit_startup_stage_seconds",
                "each stage of the container's start",
                {f'{{stage="{stage.name}"}}': stage.seconds for stage in self.stages.stages},
            ),
            *_gauge(
                "servekit_startup_engine_phase_seconds",
                "each phase of the engine's start",
                {f'{{phase="{stage.name}"}}': stage.seconds for stage in self.phases},
            ),
        ]
        return "".join(f"{line}\n" for line in lines).encode()

    def summary(self) -> str:
        """Return the seed's table, with the engine's phases below it."""
        rows = [f"[TIMING] {line}" for line in self.stages.to_text().splitlines()]
        phases = [
            f"[TIMING]   vLLM: {stage.name:<32} {stage.seconds:8.2f}s" for stage in self.phases
        ]
        return "\n".join(
            [
                "=== COLD START TIMING SUMMARY ===",
                *rows,
                *phases,
                f"[TIMING] {'Total':<40} {self.total_s:8.2f}s",
            ]
        )


def _as_json(stage: Stage) -> dict[str, object]:
    return {"name": stage.name, "start_s": stage.start_s, "end_s": stage.end_s}


def _gauge(name: str, what: str, values: dict[str, float]) -> Iterator[str]:
    yield f"# HELP {name} {what}"
    yield f"# TYPE {name} gauge"
    for labels, value in values.items():
        yield f"{name}{labels} {value:.6g}"
