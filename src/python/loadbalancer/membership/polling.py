"""Ask every replica how it is, each by a task of its own."""

import asyncio
import contextlib
from random import Random

import structlog

from loadbalancer.balancing.balancer import Balancer
from loadbalancer.balancing.replicas import ReplicaState
from servekit.errors.tree import ServeError, ShortOfResources
from servekit.metrics.engine_load import read_engine_load
from servekit.timing.clock import Clock
from servekit.wire import routes
from servekit.wire.openai import read_models

# A scrape of an overloaded vLLM takes up to 156 ms, of a healthy one 5-7 ms
# (docs/benchmarks/loadbalancer.md); a period may be shorter than that.
TIMEOUT_S = 1.0
# Replicas polled in lock-step would all answer in the same millisecond.
JITTER = 0.2
# A replica that is away is asked less often than one whose load matters.
AWAY_S = 1.0
# LoRA adapters are loaded while an engine serves; their user waits for them.
ASK_AGAIN_S = 5.0
# Of no more replicas than this, every poll of one is followed by a look at all.
FEW = 32

log = structlog.get_logger()


class Poller:
    """Polls one replica for as long as its task runs."""

    def __init__(
        self, balancer: Balancer, replica: ReplicaState, clock: Clock, rng: Random
    ) -> None:
        self._balancer = balancer
        self._replica = replica
        self._clock = clock
        self._rng = rng
        self._up: bool | None = None
        self._asked_at_s = float("-inf")
        self._models_status = 200
        self._models_version = balancer.models_version
        self.polled = asyncio.Event()

    async def run(self) -> None:
        while True:
            await self.once()
            # One that has just failed is asked again soon: requests may be waiting there.
            away = not self._replica.health.reachable
            period_s = AWAY_S if away else self._balancer.rules.poll_s
            spread = 1.0 + JITTER * (2.0 * self._rng.random() - 1.0)
            await self._clock.sleep(period_s * spread)

    async def once(self) -> bool:
        """Poll; return whether the replica is up."""
        replica, begun_s = self._replica, self._balancer.now()
        reachable = replica.health.reachable
        try:
            if self._is_time_to_ask():
                await self._learn_models()
            up = await self._poll()
            why = "" if up else "/health does not answer 200"
        except ShortOfResources as error:
            # It says nothing about the replica.
            log.warning("replica not polled", replica=replica.name, why=str(error))
            self.polled.set()
            return replica.health.reachable
        except ServeError as error:
            up, why = False, str(error)
        if up:
            self._balancer.poll_succeeded(replica, begun_s)
            self._note(up, "")
        else:
            self._balancer.poll_failed(replica)
            if not replica.health.reachable:
                self._note(up, why)
        # Looking again at every replica after each poll of one would take a large fleet's balancer
        # all its time; sweeping does so now and then.
        if reachable != replica.health.reachable or len(self._balancer.replicas) <= FEW:
            self._balancer.refresh()
        self.polled.set()
        return up

    def _is_time_to_ask(self) -> bool:
        """Whether it may serve other models than it last said, as after a restart."""
        replica, since_s = self._replica, self._clock.now() - self._asked_at_s
        if self._models_version != self._balancer.models_version:
            return True
        return not replica.models or not replica.health.reachable or since_s >= ASK_AGAIN_S

    async def _learn_models(self) -> None:
        replica, version = self._replica, self._balancer.models_version
        status, body = await replica.upstream.fetch(routes.MODELS, TIMEOUT_S)
        if status != self._models_status:
            self._models_status = status
            if status != 200:
                log.warning("replica does not list its models", replica=replica.name, status=status)
        if status == 200:
            self._asked_at_s = self._clock.now()
            self._models_version = version
            cards = read_models(body).data
            self._balancer.listed(replica, tuple(card.id for card in cards))

    async def _poll(self) -> bool:
        """Read the load.  A replica without metrics is asked whether it is healthy."""
        status, body = await self._replica.upstream.fetch(routes.METRICS, TIMEOUT_S)
        if status == 200:
            load = read_engine_load(body.decode("utf-8", "replace"))
            self._balancer.tracker.polled(self._replica.name, load, self._balancer.now())
        status, _ = await self._replica.upstream.fetch(routes.HEALTH, TIMEOUT_S)
        return status == 200

    def _note(self, up: bool, why: str) -> None:
        if up is not self._up:
            self._up = up
            say = log.info if up else log.warning
            say("replica up" if up else "replica down", replica=self._replica.name, why=why)


class Pollers:
    """A poller for every replica of a balancer."""

    def __init__(self, balancer: Balancer, clock: Clock, rng: Random) -> None:
        self._balancer = balancer
        self._clock = clock
        self._rng = rng
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._pollers: dict[str, Poller] = {}

    def follow(self) -> None:
        """Start and stop pollers, so that each replica has one."""
        for name in self._tasks.keys() - self._balancer.replicas.keys():
            self._tasks.pop(name).cancel()
            del self._pollers[name]
        for name, replica in self._balancer.replicas.items():
            if name not in self._tasks:
                poller = Poller(self._balancer, replica, self._clock, self._rng)
                self._pollers[name] = poller
                self._tasks[name] = asyncio.create_task(poller.run())

    async def first_polls(self, timeout_s: float) -> None:
        """Return once every replica was polled, or after *timeout_s*: one may be down."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                for poller in list(self._pollers.values()):
                    await poller.polled.wait()

    async def stop(self) -> None:
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
