"""Files that may change while we serve: read again, whole, and only if they are valid."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random

import structlog

from loadbalancer.balancing.balancer import Balancer
from servekit.errors.tree import ConfigError, FleetInvalid, PolicyUnknown
from servekit.fleet.fleet import Fleet
from servekit.routing.registry import policy_named
from servekit.timing.clock import Clock
from servekit.wire.address import read_address

# Someone who has just saved the file is waiting for it.
LOOK_AGAIN_S = 1.0

log = structlog.get_logger()


class WatchedFile:
    """A file that is read again when it changes, or when it is asked for."""

    def __init__(self, path: Path, reread: Callable[[], None]) -> None:
        self._path = path
        self._reread = reread
        self._seen = self._stamp()

    def reload(self) -> bool:
        """Read it again; a file that is not valid changes nothing, and says why."""
        self._seen = self._stamp()
        try:
            self._reread()
        except ConfigError as error:
            log.warning("reload refused; the old file holds", file=str(self._path), why=str(error))
            return False
        log.info("reloaded", file=str(self._path))
        return True

    async def watch(self, clock: Clock) -> None:
        while True:
            await clock.sleep(LOOK_AGAIN_S)
            if self._stamp() != self._seen:
                self.reload()

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def check_fleet(fleet: Fleet) -> None:
    """Find out what a fleet file cannot know: whether there are such policies and addresses.

    Raises:
        ConfigError: there are not.
    """
    for model in fleet.models:
        if model.policy is None:
            continue
        try:
            policy_named(model.policy, Random(0))
        except PolicyUnknown as error:
            raise FleetInvalid(f"model {model.name!r}: {error}") from error
    for replica in fleet.replicas:
        read_address(replica.url)


def apply_fleet(balancer: Balancer, fleet: Fleet) -> None:
    """Make *balancer*'s replicas those of *fleet*; requests in flight are left alone.

    Raises:
        ConfigError: the fleet cannot be had; then nothing has changed.
    """
    check_fleet(fleet)
    with balancer.changing():
        _follow(balancer, fleet)
    for model in fleet.models:
        balancer.set_policy(model.name, model.policy or balancer.rules.policy)


def _follow(balancer: Balancer, fleet: Fleet) -> None:
    wanted = {replica.name: replica for replica in fleet.replicas}
    for name, replica in list(balancer.replicas.items()):
        planned = wanted.get(name)
        if planned is None or read_address(planned.url) != replica.upstream.address:
            balancer.remove(name)
    for name, planned in wanted.items():
        standing = balancer.replicas.get(name)
        if standing is None:
            balancer.add(name, planned.url, (planned.model,))
        else:
            balancer.declare(standing, (planned.model,))


async def watch_all(files: list[WatchedFile], clock: Clock) -> None:
    """Watch *files* until cancelled."""
    await asyncio.gather(*(file.watch(clock) for file in files))
