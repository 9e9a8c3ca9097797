"""A container's program on this machine: from the settings to the signal that ends it."""

import sys
from collections.abc import Callable, Mapping

from servekit.cli.server import run_until_stopped
from servekit.container.lifecycle import LifecycleHooks, serve_until_stopped
from servekit.container.settings import ContainerSettings
from servekit.container.startup_progress import INITIALIZATION, StartupProgress
from servekit.container.system import hide_variables, process_age_s
from servekit.engine.environment import holds_secret
from servekit.timing.clock import Clock, SystemClock
from servekit.timing.timeline import Stage
from servekit.weights.hub import HubDownload


def run_container(
    settings: ContainerSettings,
    make_hooks: Callable[[StartupProgress, Clock, Mapping[str, str]], LifecycleHooks],
    environ: Mapping[str, str],
) -> None:
    """Serve until SIGTERM, and then drain.

    *environ* is this process's: what holds a secret is taken out of it, and *make_hooks* is given
    it as it was.

    Raises:
        EngineExited: the engine ended by itself; carries its last words.
        EngineNotReady: it did not serve in time.
        ConfigError: something that was set, or this machine, cannot be used.
    """
    # Its --api-key is a secret, and its other words are in the engine's own command line.
    given = dict(environ)
    secret = {name for name, value in given.items() if holds_secret(name, value)}
    hide_variables({*type(settings).secret_variables(), *secret, "ENGINE_ARGS"})
    clock = SystemClock()
    progress = StartupProgress(clock, started_s=clock.now() - process_age_s())
    hooks = make_hooks(progress, clock, given)
    progress.stages.record(Stage(INITIALIZATION, 0.0, progress.stages.elapsed_s))
    run_until_stopped(
        lambda stop: serve_until_stopped(
            hooks, settings, progress, clock=clock, write=_write, stop=stop
        )
    )


def open_hub(settings: ContainerSettings) -> HubDownload:
    """Return the hub that the settings name.  Asks nobody yet."""
    return HubDownload(
        settings.hf_token, settings.hf_endpoint or None, allow_pickle=settings.allow_pickle
    )


def _write(text: str) -> None:
    sys.stderr.write(f"{text}\n")
