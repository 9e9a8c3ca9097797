"""Listen, serve until asked to stop, and let what is under way come to its end."""

import asyncio
import socket
from random import Random

import structlog

from loadbalancer.balancer import Balancer
from loadbalancer.desk import FrontDesk
from loadbalancer.polling import Pollers
from servekit.errors.tree import SettingInvalid
from servekit.relay.front import IN_TRANSIT_S, Front
from servekit.timing.clock import Clock

log = structlog.get_logger()

# Who asks us first should find the models known; who is down then must not hold up the others.
FIRST_POLLS_S = 1.0
# How often deadlines are looked at: they are seconds and minutes long.
SWEEP_S = 0.25
# A burst of clients as large as a fleet's batch must fit while one turn of the loop runs.
BACKLOG = 4096


class Server:
    """A balancer behind a listening socket."""

    def __init__(self, balancer: Balancer, clock: Clock, rng: Random) -> None:
        self._balancer = balancer
        self._clock = clock
        self.desk = FrontDesk(balancer)
        self._fronts: set[Front] = set()
        self.pollers = Pollers(balancer, clock, rng)

    async def start(self, listening: socket.socket) -> None:
        """Serve whoever connects to *listening*."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Front(self.desk, self._fronts), sock=listening, backlog=BACKLOG
        )
        self.pollers.follow()
        await self.pollers.first_polls(FIRST_POLLS_S)
        self._sweeper = asyncio.create_task(self._sweep())

    async def stop(self, drain_s: float) -> None:
        """Take no new connections, and wait for what is under way, *drain_s* at most."""
        self._balancer.draining = True
        deadline_s = self._clock.now() + drain_s
        # Whoever has connected but was not accepted yet would be reset.
        await self._clock.sleep(min(IN_TRANSIT_S, drain_s))
        self._server.close()
        while self._fronts and self._clock.now() < deadline_s:
            for front in list(self._fronts):
                front.close_if_idle(self._clock.now())
            await self._clock.sleep(0.05)
        if self._fronts:
            log.warning("requests cut at the end of the drain", count=len(self._fronts))
        for front in list(self._fronts):
            front.transport.abort()
        self._sweeper.cancel()
        await self.pollers.stop()

    async def _sweep(self) -> None:
        while True:
            await self._clock.sleep(SWEEP_S)
            now_s = self._balancer.now()
            for front in list(self._fronts):
                front.check(now_s)
            self._balancer.sweep()


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Return a socket that is bound to *host*:*port*; port 0 is a free one.

    A *shared* port can be listened on by several processes; the kernel deals out connections.

    Raises:
        SettingInvalid: it cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        why = getattr(error, "strerror", None) or error
        raise SettingInvalid(
            f"cannot listen on {host}:{port}: {why}; free the port or use another --port"
        ) from error
    listening.setblocking(False)
    return listening
