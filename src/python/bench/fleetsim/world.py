"""A fleet behind one load balancer, in virtual time.  Pure: no clock, no sockets, one seed.

Events are taken in order of time; ties are taken in the order in which they were planned, so that
a run is the same to the bit wherever it is repeated.  The policies are those of servekit/routing,
unchanged, over the same ledger that the load balancer keeps; the engines are those that the HTTP
simulator serves.  What a request costs here does not depend on how many replicas there are, but
for what the policy looks at and the polls.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from math import ceil
from random import Random

from bench.fleetsim.outcome import CUT, NO_REPLICA, OK, REFUSED, TOO_LONG, FleetOutcome
from bench.fleetsim.replica import Trip, VirtualReplica
from bench.fleetsim.scenario import Arrival, ReplicaFailure, ReplicaSetup, Scenario
from bench.fleetsim.tokens import TokenTimes
from servekit.enginesim.engine import SimulatedEngine
from servekit.enginesim.setup import engine_config
from servekit.enginesim.shared_memory import SharedMemory
from servekit.enginesim.step import EngineStep
from servekit.errors.tree import EngineRefused, PromptTooLong, RequestInvalid
from servekit.metrics.engine_load import EngineLoad
from servekit.routing.load_tracker import LoadTracker, Pool, ReplicaLoad
from servekit.routing.policy import Policy
from servekit.routing.request import RouteRequest
from servekit.routing.token_estimate import TokenEstimate

# Decode steps that may be taken as one; a run ends by itself at the next change.
_RUN = 1_000_000_000


class World:
    """One run of one policy."""

    def __init__(
        self,
        scenario: Scenario,
        policy: Callable[[Random], Policy],
        *,
        keep_curve: bool = False,
        keep_tokens: bool = False,
    ) -> None:
        self._scenario = scenario
        self._policy = policy(Random(scenario.seed))
        self._ledger = LoadTracker(scenario.poll_s)
        self._tokens = TokenEstimate()
        self._outcome = FleetOutcome()
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = count()
        self._replicas: dict[str, VirtualReplica] = {}
        self._shared: dict[str, SharedMemory] = {}
        self._pools: dict[str, Pool] = {}
        self._open = 0
        self._arrived = 0
        self._starting: dict[str, int] = {}
        self._enough_since: dict[str, float] = {}
        self._keep_curve = keep_curve
        self._keep_tokens = keep_tokens
        self._last_s = 0.0

    @property
    def replicas(self) -> Mapping[str, VirtualReplica]:
        """The engines as they are, by name: what only a clairvoyant policy looks at."""
        return self._replicas

    def run(self, arrivals: Iterable[Arrival]) -> FleetOutcome:
        """Serve *arrivals*, in order of time, to the last token and return what became of them."""
        for setup in self._scenario.replicas:
            self._add_replica(setup, 0.0)
        self._rebuild_pools()
        for failure in self._scenario.failures:
            self._plan(failure.at_s, self._failing(failure))
        self._poll(0.0)
        if self._scenario.autoscale:
            self._plan(self._scenario.autoscale.every_s, self._scale)
        self._drive(iter(arrivals))
        return self._finished()

    def _drive(self, arrivals: Iterator[Arrival]) -> None:
        heap = self._heap
        arrival = next(arrivals, None)
        while arrival is not None or self._open:
            if arrival is not None and (not heap or arrival.at_s <= heap[0][0]):
                self._last_s = arrival.at_s
                self._arrive(arrival)
                arrival = next(arrivals, None)
                continue
            now, _, happen = heapq.heappop(heap)
            self._last_s = now
            self._outcome.events += 1
            happen(now)

    def _finished(self) -> FleetOutcome:
        outcome = self._outcome
        outcome.end_s = self._last_s
        for replica in self._replicas.values():
            self._count_engine(replica.engine)
            outcome.replica_s += self._last_s - replica.born_s
        return outcome

    def _plan(self, when: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._heap, (when, next(self._order), happen))

    # Requests.

    def _arrive(self, arrival: Arrival) -> None:
        policy = self._policy
        tokens, media = arrival.prompt_tokens, 0
        if arrival.by_rule is not None:
            tokens = self._tokens.tokens(*arrival.by_rule)
            media = round(arrival.by_rule[1] * self._tokens.media_ratio)
        route = RouteRequest(
            model=arrival.model,
            prompt_tokens=tokens,
            media_tokens=media,
            blocks=arrival.segments if policy.reads_prompt else (),
            block_tokens=self._scenario.segment_tokens,
            session=arrival.session if policy.reads_session else None,
        )
        trip = Trip(self._arrived, arrival, route)
        self._arrived += 1
        self._open += 1
        self._send(trip, arrival.at_s)

    def _send(self, trip: Trip, now: float) -> None:
        """Send a request where the policy says, and to another replica where that one is down."""
        pool = self._pools.get(trip.arrival.model)
        while True:
            left = pool.without(trip.tried) if pool and trip.tried else pool
            if not left or len(trip.tried) > self._scenario.retries:
                self._close(trip, now, REFUSED if trip.tried else NO_REPLICA)
                return
            decision = self._policy.choose(trip.route, left, now)
            replica = self._replicas[decision.replica]
            if replica.up:
                break
            # The port is closed: a refused connection is known at once.
            self._retry(trip, decision.replica)
        account = self._ledger.load_of(decision.replica)
        trip.account, trip.replica = account, replica
        # In the load balancer's order: what a policy finds does not include the request itself.
        self._policy.sent(trip.route, account, now)
        trip.held = self._ledger.begin(account, trip.route.prompt_tokens)
        replica.trips[trip.number] = trip
        profile = replica.engine.profile
        way_s = profile.frontend_s + profile.frontend_token_s * trip.arrival.prompt_tokens
        engine = replica.engine
        self._plan(now + way_s, lambda then: self._submit(trip, engine, then))

    def _retry(self, trip: Trip, name: str) -> None:
        trip.tried = (*trip.tried, name)
        self._outcome.retries += 1

    def _submit(self, trip: Trip, engine: SimulatedEngine, now: float) -> None:
        replica = trip.replica
        if replica.engine is not engine or trip.number not in replica.trips:
            # The replica died meanwhile, and the request went elsewhere.
            return
        before = engine.busy_until
        try:
            engine.submit(trip.request, now)
        except EngineRefused:
            self._leave(trip)
            self._retry(trip, replica.setup.name)
            self._send(trip, now)
            return
        except (PromptTooLong, RequestInvalid):
            self._leave(trip)
            self._close(trip, now, TOO_LONG)
            return
        if before is None:
            self._begin(replica, now)
        elif engine.busy_until != before:
            self._await_step(replica)

    def _begin(self, replica: VirtualReplica, now: float) -> None:
        setup = replica.setup
        if setup.shares is not None:
            self._shared[setup.shares].lend(replica.engine)
        card = setup.shares or setup.card
        if card is None:
            replica.engine.begin(now, _RUN)
        else:
            # Engines of one GPU take turns on it: each is slower by how many compute.
            replica.engine.begin(now, 1, 1.0 + self._busy_on(card))
        self._await_step(replica)

    def _busy_on(self, card: str) -> int:
        """Return how many engines of a GPU compute now."""
        return sum(
            card in (other.setup.shares, other.setup.card) and other.engine.busy_until is not None
            for other in self._replicas.values()
        )

    def _await_step(self, replica: VirtualReplica) -> None:
        until = replica.engine.busy_until
        if until is None:
            return
        replica.version += 1
        version = replica.version
        self._plan(until, lambda now: self._step_ended(replica, version, now))

    def _step_ended(self, replica: VirtualReplica, version: int, now: float) -> None:
        if version != replica.version:
            return
        engine = replica.engine
        step = engine.end()
        self._begin(replica, now)
        self._count_gaps(replica, step, engine.late_s)
        if engine.late_s and (step.sampled or step.finished):
            self._plan(now + engine.late_s, lambda then: self._hear(replica, engine, step, then))
        else:
            self._hear(replica, engine, step, now)
        if replica.setup.shares:
            self._wake_sharers(replica.setup.shares, now)

    def _wake_sharers(self, gpu: str, now: float) -> None:
        """Let engines go on that waited for memory which may be free now."""
        for other in self._replicas.values():
            stuck = not other.engine.idle and other.engine.busy_until is None
            if stuck and other.setup.shares == gpu:
                self._begin(other, now)

    def _count_gaps(self, replica: VirtualReplica, step: EngineStep, late_s: float) -> None:
        """Count the gaps that a step's sequences saw: between two steps' tokens, which may both
        have come out late."""
        late_before_s, replica.late_s = replica.late_s, late_s
        if replica.tokens is not None:
            replica.tokens.note(step, late_s)
        if step.decoded:
            self._outcome.gaps.add_run(
                step.first_step_s, step.growth_s, step.steps, step.decoded, late_before_s, late_s
            )

    def _hear(
        self, replica: VirtualReplica, engine: SimulatedEngine, step: EngineStep, now: float
    ) -> None:
        """Let the clients have the tokens of a step, unless its engine died with them."""
        if engine is not replica.engine:
            return
        for sequence in step.sampled:
            trip = replica.trips[sequence.request.id]
            if trip.first_s < 0:
                trip.first_s = now
                self._ledger.first_byte(trip.held)
                self._policy.answered(trip.route, trip.account, now - trip.arrival.at_s)
        for sequence in step.finished:
            trip = replica.trips[sequence.request.id]
            self._leave(trip)
            self._close(trip, now, OK)
            if trip.arrival.by_rule is not None:
                self._tokens.learn(*trip.arrival.by_rule, 0, trip.arrival.prompt_tokens)
            if replica.tokens is not None:
                self._outcome.token_s[trip.number] = replica.tokens.take(trip.number)
        if replica.draining and not replica.trips:
            self._remove(replica, now)

    def _leave(self, trip: Trip) -> None:
        del trip.replica.trips[trip.number]
        self._ledger.end(trip.held)

    def _close(self, trip: Trip, now: float, status: int) -> None:
        self._open -= 1
        arrival = trip.arrival
        number = trip.replica.number if status in (OK, CUT) else -1
        self._outcome.add(
            trip.number, arrival.at_s, trip.first_s, now, arrival.output_tokens, status, number
        )

    # What the load balancer sees.

    def _poll(self, now: float) -> None:
        scenario = self._scenario
        loads: list[tuple[str, EngineLoad]] = []
        changed = False
        for name, replica in self._replicas.items():
            if replica.up:
                load = replica.setup.claims or replica.engine.load(now)
                loads.append((name, load))
            pool = self._pools.get(replica.setup.model)
            listed = pool is not None and pool.named(name) is not None
            changed = changed or listed != (replica.up and not replica.draining)
        if changed:
            self._rebuild_pools()
        self._plan(now + scenario.scrape_s, lambda then: self._polled(loads, then))
        self._plan(now + scenario.poll_s, self._poll)
        if self._keep_curve:
            self._keep(now, loads)

    def _polled(self, loads: list[tuple[str, EngineLoad]], now: float) -> None:
        for name, load in loads:
            self._ledger.polled(name, load, now)

    def _keep(self, now: float, loads: list[tuple[str, EngineLoad]]) -> None:
        running = sum(load.running or 0 for _, load in loads)
        usage = sum(load.kv_usage or 0.0 for _, load in loads) / max(1, len(loads))
        self._outcome.running.append((now, running, usage))

    def _rebuild_pools(self) -> None:
        by_model: dict[str, list[ReplicaLoad]] = {}
        for name, replica in self._replicas.items():
            if replica.up and not replica.draining:
                by_model.setdefault(replica.setup.model, []).append(self._ledger.load_of(name))
        self._pools = {model: Pool(accounts) for model, accounts in by_model.items()}

    # What changes the fleet.

    def _add_replica(self, setup: ReplicaSetup, now: float) -> None:
        number = len(self._outcome.replica_names)
        self._outcome.replica_names.append(setup.name)
        tokens = TokenTimes() if self._keep_tokens else None
        self._replicas[setup.name] = VirtualReplica(setup, number, self._engine(setup), now, tokens)

    def _engine(self, setup: ReplicaSetup) -> SimulatedEngine:
        config = engine_config(
            setup.calibration,
            setup.options,
            setup.max_model_len,
            segment_tokens=self._scenario.segment_tokens,
            max_in_flight=setup.max_in_flight,
        )
        engine = SimulatedEngine(config, setup.calibration.profile)
        if setup.shares:
            shared = self._shared.setdefault(
                setup.shares, SharedMemory(self._scenario.shared_bytes)
            )
            shared.join(engine, setup.kv_bytes_per_token)
        return engine

    def _failing(self, failure: ReplicaFailure) -> Callable[[float], None]:
        def fail(now: float) -> None:
            replica = self._replicas.get(failure.replica)
            if replica is None or not replica.up:
                return
            self._die(replica, now)
            self._plan(now + failure.down_s, lambda then: self._restart(replica, then))

        return fail

    def _die(self, replica: VirtualReplica, now: float) -> None:
        """Lose everything that is in the engine.  Who saw a first byte is cut off, the others are
        sent elsewhere."""
        replica.up = False
        replica.version += 1
        self._count_engine(replica.engine)
        replica.engine, replica.late_s = self._engine(replica.setup), 0.0
        if replica.tokens is not None:
            replica.tokens = TokenTimes()
        trips = list(replica.trips.values())
        for trip in trips:
            self._leave(trip)
        for trip in trips:
            if trip.first_s >= 0:
                self._close(trip, now, CUT)
            else:
                self._retry(trip, replica.setup.name)
                self._send(trip, now)

    def _restart(self, replica: VirtualReplica, now: float) -> None:
        replica.up = True
        self._ledger.returned(replica.setup.name, now)
        self._policy.forget(replica.setup.name)

    def _remove(self, replica: VirtualReplica, now: float) -> None:
        name = replica.setup.name
        self._count_engine(replica.engine)
        self._outcome.replica_s += now - replica.born_s
        del self._replicas[name]
        self._ledger.close(name)
        self._policy.forget(name)

    def _count_engine(self, engine: SimulatedEngine) -> None:
        counters, outcome = engine.counters, self._outcome
        outcome.preemptions += counters.preemptions
        outcome.prefix_queries += counters.prefix_queries
        outcome.prefix_hits += counters.prefix_hits
        outcome.prompt_tokens += counters.prompt_tokens

    def _scale(self, now: float) -> None:
        rule = self._scenario.autoscale
        if rule is None:
            return
        for model in {setup.model: None for setup in self._scenario.replicas}:
            self._scale_model(model, now)
        self._plan(now + rule.every_s, self._scale)

    def _scale_model(self, model: str, now: float) -> None:
        rule = self._scenario.autoscale
        if rule is None:
            return
        serving = [
            r for r in self._replicas.values() if r.setup.model == model and r.up and not r.draining
        ]
        least = sum(1 for setup in self._scenario.replicas if setup.model == model)
        held = sum(len(replica.trips) for replica in serving)
        wanted = min(max(least, ceil(held / rule.in_flight)), max(least, rule.most))
        coming = self._starting.get(model, 0)
        if wanted > len(serving) + coming:
            self._start(model, wanted - len(serving) - coming, now + rule.start_s)
        if wanted >= len(serving):
            self._enough_since.pop(model, None)
        elif now - self._enough_since.setdefault(model, now) >= rule.idle_s:
            self._drain(serving[-1], now)

    def _start(self, model: str, number: int, when: float) -> None:
        like = next(setup for setup in self._scenario.replicas if setup.model == model)
        self._starting[model] = self._starting.get(model, 0) + number

        def ready(now: float) -> None:
            self._starting[model] -= number
            for _ in range(number):
                name = f"{like.name}-scaled-{len(self._outcome.replica_names)}"
                setup = replace(like, name=name, shares=None)
                self._add_replica(setup, now)

        self._plan(when, ready)

    def _drain(self, replica: VirtualReplica, now: float) -> None:
        replica.draining = True
        self._rebuild_pools()
        if not replica.trips:
            self._remove(replica, now)
