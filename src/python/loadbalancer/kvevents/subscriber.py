"""Hear the KV-cache events of every replica, over ZeroMQ."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable

import structlog
import zmq
import zmq.asyncio
import zmq.utils.monitor

from loadbalancer.kvevents.events import FollowedRank, FollowedReplica
from servekit.timing.clock import Clock

# A publisher answers from memory, between two messages.
REPLAY_TIMEOUT_S = 2.0
FOLLOW_S = 1.0
# A message has the tokens of one step's blocks; this is 16 million of them.
MOST_BYTES = 64 * 1024 * 1024
_QUEUED = 100_000
_END = (-1).to_bytes(8, "big", signed=True)

log = structlog.get_logger()


class KvSubscriber:
    """A task for each publisher of each replica.

    Attributes:
        replicas: what is known of their caches, by name.
    """

    def __init__(self, endpoints_of: Callable[[str], tuple[tuple[str, str | None], ...]]) -> None:
        """*endpoints_of* says where a replica publishes its events, and where it sends them again,
        for each of its ranks."""
        self.replicas: dict[str, FollowedReplica] = {}
        self._endpoints_of = endpoints_of
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}
        self._now: Callable[[], float] = lambda: 0.0
        self._context = zmq.asyncio.Context()

    async def run(self, names: Callable[[], Iterable[str]], clock: Clock) -> None:
        """Follow those that *names* says there are, until cancelled."""
        self._now = clock.now
        try:
            while True:
                self.follow(frozenset(names()))
                await clock.sleep(FOLLOW_S)
        finally:
            self.follow(frozenset())
            self._context.destroy(linger=0)

    def follow(self, names: frozenset[str]) -> None:
        """Follow exactly *names*."""
        for name in self._tasks.keys() - names:
            del self.replicas[name]
            for task in self._tasks.pop(name):
                task.cancel()
        for name in names - self._tasks.keys():
            endpoints = self._endpoints_of(name)
            replica = self.replicas[name] = FollowedReplica(len(endpoints))
            self._tasks[name] = [
                asyncio.create_task(self._hear(name, rank, *endpoint))
                for rank, endpoint in zip(replica.ranks, endpoints, strict=True)
            ]

    async def _hear(self, name: str, rank: FollowedRank, endpoint: str, replay: str | None) -> None:
        try:
            await self._subscribe(name, rank, endpoint, replay)
        except zmq.ZMQError as error:
            rank.lost("unreachable")
            log.warning("cannot follow KV events", replica=name, endpoint=endpoint, why=str(error))

    async def _subscribe(
        self, name: str, rank: FollowedRank, endpoint: str, replay: str | None
    ) -> None:
        with self._socket(zmq.SUB, endpoint) as socket:
            connections = _Connections(socket)
            socket.subscribe(b"")
            await self._catch_up(rank, replay)
            was = None
            while True:
                if was is not rank.following:
                    was = rank.following
                    say = log.info if was else log.warning
                    say(
                        "KV events followed" if was else "KV events incomplete",
                        replica=name,
                        problems=dict(rank.problems),
                    )
                frames = await connections.message_or_reconnection()
                if frames is None:
                    # Another engine may be there now.
                    await self._catch_up(rank, replay)
                elif len(frames) != 3 or len(frames[1]) != 8:
                    rank.lost("malformed")
                else:
                    number = int.from_bytes(frames[1], "big")
                    if rank.missing(number):
                        await self._catch_up(rank, replay)
                    rank.message(number, frames[2], self._now())

    async def _catch_up(self, rank: FollowedRank, replay: str | None) -> None:
        """Take what was missed, if the publisher is still the one that was heard before; all that
        it has published, if not."""
        if replay is None:
            if rank.expected:
                rank.restarted()
            return
        rank.verified = None
        whole = await self._replay(rank, replay, max(0, rank.expected - 1))
        if rank.expected and rank.verified is not True:
            rank.restarted()
            whole = await self._replay(rank, replay, 0)
        if whole:
            rank.nothing_published()
        rank.caught_up()

    async def _replay(self, rank: FollowedRank, endpoint: str, first: int) -> bool:
        """Take the messages from *first* on that the publisher still has; return whether they all
        came."""
        with self._socket(zmq.DEALER, endpoint) as socket:
            await socket.send_multipart((b"", first.to_bytes(8, "big")))
            with contextlib.suppress(TimeoutError):
                while True:
                    frames = await asyncio.wait_for(socket.recv_multipart(), REPLAY_TIMEOUT_S)
                    # Since 0.30 there is a topic before the number.
                    if len(frames) < 3 or len(frames[-2]) != 8 or frames[-2] == _END:
                        return len(frames) >= 3 and frames[-2] == _END
                    rank.message(int.from_bytes(frames[-2], "big"), frames[-1], self._now())
                    if rank.verified is False:
                        return False
        return False

    @contextlib.contextmanager
    def _socket(self, kind: int, endpoint: str):  # type: ignore[no-untyped-def]
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, _QUEUED)
        socket.setsockopt(zmq.MAXMSGSIZE, MOST_BYTES)
        try:
            socket.connect(endpoint)
            yield socket
        finally:
            socket.close()


class _Connections:
    """Messages of a socket, and when it is connected again after its publisher was away."""

    def __init__(self, socket: zmq.asyncio.Socket) -> None:
        self._socket = socket
        self._monitor = socket.get_monitor_socket(
            zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED
        )
        self._away = False
        self._tasks: dict[str, asyncio.Future[list[bytes]]] = {}

    async def message_or_reconnection(self) -> list[bytes] | None:
        """Return the next message; None where the connection has come back."""
        while True:
            for kind, source in (("message", self._socket), ("event", self._monitor)):
                if kind not in self._tasks:
                    self._tasks[kind] = asyncio.ensure_future(source.recv_multipart())
            try:
                await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                for task in self._tasks.values():
                    task.cancel()
                raise
            if self._tasks["event"].done():
                event = zmq.utils.monitor.parse_monitor_message(self._tasks.pop("event").result())
                if event["event"] == zmq.EVENT_DISCONNECTED:
                    self._away = True
                elif self._away:
                    self._away = False
                    return None
            elif self._tasks["message"].done():
                return self._tasks.pop("message").result()
