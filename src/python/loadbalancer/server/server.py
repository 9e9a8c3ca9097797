"""Listen, serve until asked to stop, and let what is under way come to its end."""

import resource
import socket
from random import Random
from typing import TYPE_CHECKING

import structlog

from loadbalancer.balancing.balancer import Balancer
from loadbalancer.membership.polling import Pollers
from loadbalancer.server.handlers import RequestHandlers
from loadbalancer.server.keys import KeyRing
from loadbalancer.server.replica_watch import ReplicaWatch
from loadbalancer.workers.shared_stats import WorkerStats
from servekit.relay.http2 import is_available
from servekit.relay.listening import Listener
from servekit.relay.tls import ServerTls
from servekit.timing.clock import Clock

if TYPE_CHECKING:
    from loadbalancer.observe.tracing import Tracing

log = structlog.get_logger()

# The first client should find the models known; a replica that is down must not delay the start.
FIRST_POLLS_S = 1.0

# Open files for logs and listening sockets, and for the polls of a replica.
OWN_FILES = 64
FILES_PER_REPLICA = 2


class Server:
    """A balancer behind a listening socket, or behind two: one for requests and one for admin."""

    def __init__(
        self,
        balancer: Balancer,
        clock: Clock,
        rng: Random,
        *,
        stats: WorkerStats | None = None,
        admin: socket.socket | None = None,
        tls: ServerTls | None = None,
    ) -> None:
        """*stats* is what all workers have seen; *admin* a socket for those questions alone; *tls*
        is what clients of both have to speak."""
        self._balancer = balancer
        self._stats = stats or WorkerStats(balancer)
        self._admin_socket = admin
        self._handlers = RequestHandlers(balancer, self._stats, admins=admin is None)
        http2 = is_available()
        self._listener = Listener(self._handlers, clock, self._sweep, tls, http2=http2)
        self._watch = ReplicaWatch(balancer, self._listener.clients.exchanges)
        balancer.make_room = self._listener.clients.shed_idle
        self._admin_handlers = RequestHandlers(balancer, self._stats, clients=False)
        self._admin = Listener(self._admin_handlers, clock, tls=tls, http2=http2)
        self.pollers = Pollers(balancer, clock, rng)

    def use_keys(self, keys: KeyRing) -> None:
        """Admit clients that have one of *keys*, from now on."""
        self._handlers.use_keys(keys)
        self._admin_handlers.use_keys(keys)

    def use_admin_keys(self, keys: KeyRing) -> None:
        """Admit admins that have one of *keys*, from now on."""
        self._handlers.use_admin_keys(keys)
        self._admin_handlers.use_admin_keys(keys)

    def use_tracing(self, tracing: "Tracing") -> None:
        """Make a span of each request, from now on."""
        self._handlers.tracing = tracing

    async def start(self, listening: socket.socket) -> None:
        """Serve the clients of *listening*.

        Replicas are asked first what they serve: other workers may be listening there already, who
        know.
        """
        self._reserve_files()
        self.pollers.follow()
        await self.pollers.first_polls(FIRST_POLLS_S)
        await self._listener.start(listening)
        if self._admin_socket is not None:
            await self._admin.start(self._admin_socket)

    async def stop(self, drain_s: float) -> None:
        """Take no new connections, and wait for what is under way, *drain_s* at most."""
        self._balancer.draining = True
        lost = await self._listener.drain(drain_s)
        if lost:
            log.warning("drain timeout: requests aborted", count=lost)
        self._listener.close()
        self._admin.close()
        await self.pollers.stop()
        self._stats.post()

    def _reserve_files(self) -> None:
        """Let in as many clients as can each have a connection to an engine as well."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY:
            kept = OWN_FILES + FILES_PER_REPLICA * len(self._balancer.replicas)
            self._listener.clients.most = max(1, (soft - kept) // 2)

    def _sweep(self) -> None:
        self._balancer.sweep()
        self._reserve_files()
        self._watch.sweep()
        self._stats.post()
