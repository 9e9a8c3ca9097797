"""Listen, serve until asked to stop, and let what is under way come to its end."""

import socket
from random import Random

import structlog

from loadbalancer.balancer import Balancer
from loadbalancer.desk import FrontDesk
from loadbalancer.polling import Pollers
from servekit.relay.listening import Listener
from servekit.timing.clock import Clock

log = structlog.get_logger()

# Who asks us first should find the models known; who is down then must not hold up the others.
FIRST_POLLS_S = 1.0


class Server:
    """A balancer behind a listening socket."""

    def __init__(self, balancer: Balancer, clock: Clock, rng: Random) -> None:
        self._balancer = balancer
        self.desk = FrontDesk(balancer)
        self._listener = Listener(self.desk, clock, also=balancer.sweep)
        self.pollers = Pollers(balancer, clock, rng)

    async def start(self, listening: socket.socket) -> None:
        """Serve whoever connects to *listening*."""
        await self._listener.start(listening)
        self.pollers.follow()
        await self.pollers.first_polls(FIRST_POLLS_S)

    async def stop(self, drain_s: float) -> None:
        """Take no new connections, and wait for what is under way, *drain_s* at most."""
        self._balancer.draining = True
        lost = await self._listener.drain(drain_s)
        if lost:
            log.warning("requests cut at the end of the drain", count=lost)
        self._listener.close()
        await self.pollers.stop()
