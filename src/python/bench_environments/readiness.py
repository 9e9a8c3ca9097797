"""Wait until every container of an environment serves, and show how far it is."""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table

from bench_environments.compose import LABEL
from bench_environments.docker import Container
from servekit.errors.tree import EngineExited, EngineNotReady
from servekit.timing.clock import Clock

_INTERVAL_S = 1.0

Look = Callable[[], Sequence[Container]]


class ProgressView(Protocol):
    """Where progress is shown."""

    def show(self, containers: Sequence[Container], after_s: float) -> None: ...


class PodFailed(EngineExited):
    """A container ended, or is not healthy.

    Attributes:
        container: it.
    """

    def __init__(self, message: str, container: Container) -> None:
        super().__init__(message)
        self.container = container


async def wait_until_ready(
    look: Look, expected: Collection[str], watcher: ProgressView, clock: Clock, timeout_s: float
) -> float:
    """Return the seconds until every container that is *expected*, by name, was ready.

    Raises:
        PodFailed: one ended, or stays unhealthy.
        EngineNotReady: they were not within *timeout_s*.
    """
    start_s = clock.now()
    while True:
        containers = look()
        waited_s = clock.now() - start_s
        watcher.show(containers, waited_s)
        for container in containers:
            if container.failed:
                raise PodFailed(
                    f"{container.name} is {container.state} after {waited_s:.0f} s; see its log "
                    "lines above",
                    container,
                )
        late = set(expected) - {container.name for container in containers if container.ready}
        if not late:
            return waited_s
        if waited_s >= timeout_s:
            raise EngineNotReady(
                f"not ready after {waited_s:.0f} s: {', '.join(sorted(late))}; see docker "
                "logs, or raise --timeout-s"
            )
        await clock.sleep(_INTERVAL_S)


def table_of(containers: Sequence[Container], after_s: float | None = None) -> Table:
    """Return a row for each container."""
    title = None if after_s is None else f"after {after_s:.0f} s"
    table = Table(title=title, box=None, pad_edge=False)
    for heading in ("container", "state", "port", "GPUs", "engine", "image"):
        table.add_column(heading, no_wrap=True)
    for one in containers:
        said = [one.labels.get(f"{LABEL}.{name}", "") for name in ("port", "gpus", "engine")]
        table.add_row(one.name, one.state, *said, one.image)
    return table


class LiveTable:
    """A table that changes in its place, on a terminal."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, containers: Sequence[Container], after_s: float) -> None:
        self._live.update(table_of(containers, after_s), refresh=True)


class ChangedLines:
    """A line for each change, where the output is a file or a pipe."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._states: dict[str, str] = {}

    def show(self, containers: Sequence[Container], after_s: float) -> None:
        for one in containers:
            if self._states.get(one.name) != one.state:
                self._states[one.name] = one.state
                self._console.print(
                    f"{after_s:6.0f} s  {one.name}: {one.state}", highlight=False, soft_wrap=True
                )
