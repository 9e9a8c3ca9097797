"""A container's program on this machine: from the settings to the signal that ends it."""

import sys
from collections.abc import Callable

from servekit.cli.server import run_until_stopped
from servekit.container.life import Service, live
from servekit.container.progress import INITIALIZATION, Progress
from servekit.container.settings import ContainerSettings
from servekit.container.system import process_age_s
from servekit.timing.clock import Clock, SystemClock
from servekit.timing.timeline import Stage
from servekit.weights.hub import HubDownload


def run_container(
    settings: ContainerSettings, make_service: Callable[[Progress, Clock], Service]
) -> None:
    """Serve until SIGTERM, and then drain.

    Raises:
        EngineExited: the engine ended by itself; carries its last words.
        EngineNotReady: it did not serve in time.
        ConfigError: something that was set, or this machine, cannot be used.
    """
    clock = SystemClock()
    progress = Progress(clock, started_s=clock.now() - process_age_s())
    service = make_service(progress, clock)
    progress.stages.record(Stage(INITIALIZATION, 0.0, progress.stages.elapsed_s))
    run_until_stopped(
        lambda stop: live(service, settings, progress, clock=clock, write=_write, stop=stop)
    )


def open_hub(settings: ContainerSettings) -> HubDownload:
    """Return the hub that the settings name.  Asks nobody yet."""
    return HubDownload(settings.hf_token or None, settings.hf_endpoint or None)


def _write(text: str) -> None:
    sys.stderr.write(f"{text}\n")
