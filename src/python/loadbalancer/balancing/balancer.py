"""What a load balancer knows and decides; it opens no socket itself."""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from random import Random

import msgspec
import structlog
import xxhash

from loadbalancer.balancing.admission import Admission
from loadbalancer.balancing.copies import RequestCopies
from loadbalancer.balancing.health import CONNECTION, Health, HealthRules, rest_asked_s
from loadbalancer.balancing.replicas import ModelService, ReplicaState, RoutableRequest
from loadbalancer.balancing.retry import RetryBudget
from loadbalancer.balancing.session_sources import SessionSources
from loadbalancer.kvevents.exact import KvKnowledge
from loadbalancer.observe.decision_log import DecisionLog
from loadbalancer.observe.snapshot import (
    DECISIONS_KEPT,
    PastDecision,
    ReplicaSeen,
    StatsSnapshot,
    observed,
)
from loadbalancer.observe.telemetry import TrafficStats
from loadbalancer.workers.deadly_requests import DeadlyRequests
from loadbalancer.workers.response_owners import ResponseOwners
from loadbalancer.workers.shared_counts import SharedCounts
from servekit.errors.tree import (
    ModelUnknown,
    PolicyUnknown,
    ReplicaMissing,
    RequestInvalid,
    SettingInvalid,
)
from servekit.relay.tls import UpstreamTls
from servekit.relay.upstream_pool import UpstreamPool
from servekit.routing.decision import Decision
from servekit.routing.load_tracker import InFlight, LoadTracker, Pool, ReplicaLoad
from servekit.routing.policy import Policy
from servekit.routing.registry import policy_named
from servekit.routing.session import Session
from servekit.secrets.secret import Secret
from servekit.wire.address import read_address

# A name that is longer is no model's, and need not be sent back whole.
MOST_NAME_SHOWN = 200

log = structlog.get_logger()


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """How a load balancer behaves.

    Attributes:
        policy: the name of the default policy.
        poll_s: seconds between two polls of a replica.
        answer_timeout_s: the longest silence of an engine, before and within an answer.
        extra_paths: paths that are relayed besides those that are known.
        cors_origins: web origins whose pages may read answers; `*` is any.
        policy_header: whether a request may choose its policy.
        sessions: where requests name the session by which they stay at a replica, whatever the
            policy; None: they do not.
        max_in_flight: requests for each of a model's replicas; others wait here.  0 is no limit.
        most_waiting: requests of a model that may wait.
        wait_s: how long they may.
    """

    policy: str
    shadow: str | None = None
    poll_s: float = 0.2
    connect_timeout_s: float = 2.0
    # A long answer that is not streamed is all silence: 32K tokens at 20/s.
    answer_timeout_s: float = 1800.0
    max_body_bytes: int = 32 * 1024 * 1024
    max_body_memory_bytes: int = 1024 * 1024 * 1024
    health: HealthRules = HealthRules()
    extra_paths: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    policy_header: bool = True
    sessions: SessionSources | None = SessionSources()
    max_in_flight: int = 0
    most_waiting: int = 1000
    wait_s: float = 30.0


class Balancer:
    """The replicas, the models that they serve, their load and the latest decisions."""

    def __init__(
        self,
        rules: Rules,
        rng: Random,
        now: Callable[[], float],
        shared: SharedCounts | None = None,
        decision_log: DecisionLog | None = None,
        engine_key: Secret | None = None,
        upstream_tls: UpstreamTls | None = None,
    ) -> None:
        """*shared* are the counts of this and other workers, where there are any; *engine_key* is
        what the engines ask for, if anything; *upstream_tls* says whom those that speak TLS are
        signed by."""
        self.rules = rules
        self.engine_key = engine_key or Secret()
        self._upstream_tls = upstream_tls or UpstreamTls()
        self._shared = shared
        self.decision_log = decision_log
        self.now = now
        self.tracker = LoadTracker(rules.poll_s)
        self.replicas: dict[str, ReplicaState] = {}
        self.services: dict[str, ModelService] = {}
        self.budget = RetryBudget()
        self.telemetry = TrafficStats()
        self.decisions: deque[tuple[float, Decision, str | None]] = deque(maxlen=DECISIONS_KEPT)
        self.draining = False
        # What the engines' events say of their caches; None where they are not followed.
        self.kv: KvKnowledge | None = None
        self._rng = rng
        # An unknown policy is refused at start, not at the first request.
        for name in filter(None, (rules.policy, rules.shadow)):
            policy_named(name, rng)
        self._requested_policies: dict[tuple[str, str], Policy] = {}
        # Requests that engines died of, by all workers.
        self.deadly = DeadlyRequests() if shared is None else shared.deadly
        # Which replica keeps which response.
        self.response_owners = ResponseOwners() if shared is None else shared.response_owners
        self.copies = RequestCopies()
        # Closes idle clients where descriptors have run out; the server knows how.
        self.make_room: Callable[[], int] = lambda: 0
        self._changing = False

    # Membership.

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Add and remove replicas as one: who waits for a model does not see it without any."""
        self._changing = True
        try:
            yield
        finally:
            self._changing = False
            self._arrange()

    def add(self, name: str, url: str, models: tuple[str, ...] = ()) -> ReplicaState:
        """Add a replica.  It serves nothing until its models are known.

        Raises:
            SettingInvalid: *url* is none, or the replica is there already.
        """
        if name in self.replicas:
            raise SettingInvalid(f"duplicate endpoint {name!r}; give each replica once")
        upstream = UpstreamPool(
            read_address(url),
            self.rules.connect_timeout_s,
            key=self.engine_key.reveal(),
            make_room=lambda: self.make_room(),
            tls=self._upstream_tls,
        )
        replica = ReplicaState(
            name, upstream, self.tracker.load_of(name), Health(self.rules.health)
        )
        self.replicas[name] = replica
        if models:
            self.declare(replica, models)
        return replica

    def remove(self, name: str) -> None:
        """Remove a replica; requests that it holds run to their end."""
        replica = self.replicas.pop(name)
        self.tracker.close(name)
        replica.upstream.close()
        self._forget(name)
        self._arrange()

    def serves(self, replica: ReplicaState, models: tuple[str, ...]) -> None:
        """Say which models a replica serves."""
        if models != replica.models:
            replica.models = models
            self._arrange()

    def declare(self, replica: ReplicaState, models: tuple[str, ...]) -> None:
        """Say which models a replica is meant to serve; it does until it says otherwise itself."""
        if models != replica.declared:
            replica.declared = models
            self.serves(replica, models)

    def listed(self, replica: ReplicaState, models: tuple[str, ...]) -> None:
        """*replica* has said which models it serves."""
        missing = [model for model in replica.declared if model not in models]
        if missing and replica.models:
            log.warning(
                "replica serves another model", replica=replica.name, missing=missing, serves=models
            )
        self.serves(replica, () if missing else models)

    def models_changed(self) -> None:
        """Adapters were loaded or unloaded: other workers are to ask what is served now."""
        if self._shared is not None:
            self._shared.models_changed()

    @property
    def models_version(self) -> int:
        """Grows whenever replicas may serve other models than they said."""
        return 0 if self._shared is None else self._shared.models_version

    def set_policy(self, model: str, name: str) -> None:
        """Give *model* a policy of its own."""
        service = self.services.get(model)
        if service is not None and service.policy.name != name:
            service.policy = policy_named(name, self._rng)

    def refresh(self) -> None:
        """Look again at who may be chosen: health has changed, or time has passed."""
        now_s = self.now()
        for service in self.services.values():
            service.refresh(now_s)
            service.admission.let_in(now_s)

    def sweep(self) -> None:
        """Let time pass: who has rested is asked again, who has waited too long is turned away."""
        self.refresh()
        self.copies.sweep(self.now())
        for service in self.services.values():
            service.admission.expire(self.now())

    def came_back(self, replica: ReplicaState) -> None:
        """*replica* was away, and has probably been restarted."""
        self.tracker.returned(replica.name, self.now())
        self._forget(replica.name)

    def _forget(self, name: str) -> None:
        """What policies learnt of a replica is no longer so."""
        if self.kv is not None:
            self.kv.forget(name)
        for service in self.services.values():
            service.policy.forget(name)
            service.answers.forget(name)
            if service.shadow is not None:
                service.shadow.forget(name)
        for policy in self._requested_policies.values():
            policy.forget(name)

    def _arrange(self) -> None:
        if self._changing:
            return
        served = {model for replica in self.replicas.values() for model in replica.models}
        for model in served - self.services.keys():
            self.services[model] = self._new_service(model)
        # A replica that has not said yet what it serves may serve a model that no other serves now.
        all_known = all(replica.models for replica in self.replicas.values())
        for model in self.services.keys() - served if all_known else ():
            gone = self.services.pop(model)
            gone.replicas = ()
            # Retries find no replica any more; queued requests are refused.
            gone.refresh(self.now())
            gone.admission.dismiss("no replica serves it any more")
        for model, service in self.services.items():
            service.replicas = tuple(r for r in self.replicas.values() if model in r.models)
        self.refresh()

    def _new_service(self, model: str) -> ModelService:
        rules = self.rules
        return ModelService(
            model,
            policy_named(rules.policy, self._rng),
            Admission(
                rules.most_waiting,
                rules.wait_s,
                (lambda: self._has_room(model)) if rules.max_in_flight else None,
            ),
            policy_named(rules.shadow, self._rng) if rules.shadow else None,
            affinity=Session(self._rng) if rules.sessions is not None else None,
        )

    def _has_room(self, model: str) -> bool:
        """Whether a replica of *model* may get another request."""
        service = self.services.get(model)
        if service is None or not service.pool:
            return True
        return bool(self._with_room(service.pool))

    def _with_room(self, pool: Pool) -> Pool:
        """Return the replicas of *pool* that are not at their limit, by all workers' counts."""
        limit = self.rules.max_in_flight
        if not limit:
            return pool
        if self._shared is not None:
            self._shared.refresh(pool)
        full = [load.name for load in pool if load.ours >= limit]
        return pool.without(full) if full else pool

    # Requests.

    def service(self, model: str) -> ModelService:
        """Return the service of *model*.

        Raises:
            RequestInvalid: the request names no model.
            ModelUnknown: no replica serves it.
            ReplicaMissing: none is known to serve it yet.
        """
        service = self.services.get(model)
        if service is None:
            raise self.unknown(model)
        return service

    def requested_policy(self, service: ModelService, name: bytes) -> Policy:
        """Return the policy called *name*, with what it has learnt of the service's model.

        Raises:
            RequestInvalid: there is none.
        """
        if name.decode("latin-1") == service.policy.name:
            return service.policy
        key = (service.model, name.decode("latin-1"))
        known = self._requested_policies.get(key)
        if known is None:
            try:
                known = self._requested_policies[key] = policy_named(key[1], self._rng)
            except PolicyUnknown as error:
                raise RequestInvalid(f"x-servekit-policy: {error}") from error
        return known

    def choose(
        self,
        routable: RoutableRequest,
        tried: Collection[str],
        now_s: float,
        only: str | None = None,
    ) -> Decision:
        """Return a decision for a replica that was not tried yet: for *only*, if it can be had.

        Raises:
            ReplicaMissing: there is none.
        """
        service = routable.service
        if routable.owner:
            return self._ask_owner(routable.owner, tried)
        pool = service.pool.without(tried) if tried else service.pool
        if not pool:
            # A replica's rest may have ended since the pool was built.
            service.refresh(now_s)
            pool = service.pool.without(tried)
        if not pool:
            raise service.missing(now_s)
        if self._shared is not None:
            self._shared.refresh_lately(pool, now_s)
        if self.rules.max_in_flight:
            pool = self._with_room(pool)
            if not pool:
                raise ReplicaMissing(
                    f"every replica of model {service.model!r} is at its limit; retry later"
                )
        route = routable.route
        wanted = None if only is None else pool.named(only)
        if wanted is not None:
            return routable.policy.choose(route, Pool((wanted,)), now_s)
        if route.session is not None and service.affinity is not None and not tried:
            # The ring is that of all replicas: a session whose own is full for a while comes back.
            home = service.affinity.choose(route, service.pool, now_s)
            if pool is service.pool or any(load.name == home.replica for load in pool):
                return home
        return routable.policy.choose(route, pool, now_s)

    def replica_for_suspect(self, service: ModelService, request: int) -> str | None:
        """Return the replica that gets a *request* next which an engine may have died of.

        It is the same one for all copies, whichever worker sends them.
        """
        had = self.deadly.replicas_with(request)
        numbers = [
            (xxhash.xxh3_64_intdigest(b"%d %d" % (request, replica.number)), replica.name)
            for replica in service.replicas
            if replica.number not in had and service.pool.named(replica.name) is not None
        ]
        return min(numbers)[1] if numbers else None

    def _ask_owner(self, owner: str, tried: Collection[str]) -> Decision:
        """Return the decision for the one replica that can answer.

        Raises:
            ReplicaMissing: it is gone, or has failed.
        """
        if owner in tried or owner not in self.replicas:
            raise ReplicaMissing("the replica that keeps the response is gone; create it again")
        return Decision(owner, "owner", "owner", ((owner, None),))

    def owner_of(self, response: str) -> ReplicaState | None:
        """Return the replica that has made *response*, as far as is known."""
        number = self.response_owners.owner(response)
        if number is None:
            return None
        return next((r for r in self.replicas.values() if r.number == number), None)

    def others(self, service: ModelService, tried: Collection[str]) -> bool:
        """Whether a replica that was not *tried* may get a request of *service*."""
        limit = self.rules.max_in_flight
        return any(
            load.name not in tried and (not limit or load.ours < limit) for load in service.pool
        )

    def sent(
        self, routable: RoutableRequest, decision: Decision, load: ReplicaLoad, now_s: float
    ) -> InFlight:
        """*routable* was sent to *load*, as decided at *now_s*: count it, and tell the policies."""
        shadow = routable.service.shadow
        other = None if shadow is None else self._ask_shadow(shadow, routable, decision, now_s)
        self.decisions.append((now_s, decision, other))
        self.telemetry.decisions[decision.policy, decision.reason] += 1
        routable.policy.sent(routable.route, load, now_s)
        if shadow is not None:
            shadow.sent(routable.route, load, now_s)
        request = self.tracker.begin(load, routable.route.prompt_tokens)
        if self._shared is not None:
            self._shared.publish(load)
        return request

    def ended(self, request: InFlight) -> None:
        """A request that was sent is over."""
        self.tracker.end(request)
        if self._shared is not None:
            self._shared.publish(request.replica)

    def left(self, service: ModelService, now_s: float) -> None:
        """A request of *service* is over: its place may be taken, by any model's request."""
        service.admission.let_in(now_s)
        for other in list(self.services.values()):
            other.admission.let_in(now_s)

    def answered(
        self, routable: RoutableRequest, request: InFlight, sent_s: float, ttft_s: float
    ) -> None:
        """The first byte of an answer came."""
        self.tracker.first_byte(request)
        service, route = routable.service, routable.route
        service.first_bytes.latest.append(
            (request.replica.name, sent_s, ttft_s, route.prompt_tokens)
        )
        routable.policy.answered(routable.route, request.replica, ttft_s)
        if route.exact is not None and self.kv is not None:
            self.kv.expect(request.replica.name, route.exact)
        if routable.service.shadow is not None:
            routable.service.shadow.answered(routable.route, request.replica, ttft_s)

    async def with_tokens(self, routable: RoutableRequest) -> RoutableRequest:
        """Return *routable* with the prompt's tokens and who has them cached, as far as that can be
        found out."""
        if self.kv is None or routable.question is None or not routable.service.pool:
            return routable
        pool = routable.service.pool
        asked = self.replicas.get(pool[int(self._rng.random() * len(pool))].name)
        exact = None
        if asked is not None:
            exact = await self.kv.prompt(routable.question, asked.upstream)
        if exact is None:
            return routable
        route = msgspec.structs.replace(routable.route, exact=exact, prompt_tokens=exact.tokens)
        return msgspec.structs.replace(routable, route=route)

    def counted(self, routable: RoutableRequest, prompt_tokens: int) -> None:
        """An engine says how many tokens the prompt had."""
        routable.service.tokens.learn(*routable.parts, prompt_tokens)

    def _ask_shadow(
        self, shadow: Policy, routable: RoutableRequest, decision: Decision, now_s: float
    ) -> str:
        """Return what *shadow* would have chosen, had it been asked first."""
        pool = routable.service.pool
        other = shadow.choose(routable.route, pool, now_s).replica if pool else decision.replica
        self.telemetry.shadow[shadow.name, "same" if other == decision.replica else "other"] += 1
        return other

    def snapshot(self) -> StatsSnapshot:
        """Return what was counted since the start, and what is the case now."""
        seen, now_s = self.telemetry, self.now()
        return StatsSnapshot(
            overhead_s=observed(seen.overhead_s),
            ttft_s=observed(seen.ttft_s),
            duration_s=observed(seen.duration_s),
            queue_s=observed(seen.queue_s),
            requests=dict(seen.requests),
            decisions=dict(seen.decisions),
            shadow=dict(seen.shadow),
            retries=dict(seen.retries),
            refusals=dict(seen.refusals),
            ejections=dict(seen.ejections),
            faults=dict(seen.faults),
            waiting={model: s.admission.waiting for model, s in self.services.items()},
            replicas={r.name: _seen(r, now_s) for r in self.replicas.values()},
            lately=tuple(PastDecision(*decided) for decided in self.decisions),
        )

    # What the data path found out.

    def on_trial(self, replica: ReplicaState) -> bool:
        """A request went to *replica*, which is in trouble; return whether it is its one trial."""
        if not replica.health.on_trial(self.now()):
            return False
        self.refresh()
        return True

    def trial_over(self, replica: ReplicaState) -> None:
        """A request on trial ended, however it did."""
        replica.health.trial_over()
        self.refresh()

    def recovered(self, replica: ReplicaState) -> None:
        """*replica* was in trouble, and has answered."""
        replica.health.succeeded()
        self.refresh()

    def failed(self, replica: ReplicaState) -> None:
        """A request failed through the fault of *replica*."""
        if replica.health.failed(self.now()):
            log.warning("replica ejected", replica=replica.name, fault=CONNECTION)
            self.telemetry.ejections[replica.name] += 1
            self.refresh()

    def bad_answer(self, service: ModelService, replica: ReplicaState, fault: str) -> None:
        """*replica* gave an answer that is not the caller's fault: compare it with its siblings."""
        self.telemetry.faults[replica.name, fault] += 1
        health = replica.health
        relapsed = health.on_probation and health.ejected_for == fault
        if service.answers.bad(replica.name) or relapsed:
            self.take_out(service, replica, fault)

    def take_out(self, service: ModelService, replica: ReplicaState, fault: str) -> None:
        """Send nothing more to *replica* for a while; say what it was compared with."""
        if not replica.health.take_out(self.now(), fault):
            return
        own, siblings = (
            service.answers.counts_of(replica.name),
            service.answers.siblings_of(replica.name),
        )
        log.warning(
            "replica ejected",
            replica=replica.name,
            model=service.model,
            fault=fault,
            bad_answers=own.bad,
            answers=own.total,
            siblings_bad_answers=siblings.bad,
            siblings_answers=siblings.total,
        )
        self.telemetry.ejections[replica.name] += 1
        service.answers.forget(replica.name)
        self.refresh()

    def poll_failed(self, replica: ReplicaState) -> None:
        """A poll of *replica* failed."""
        replica.health.poll_failed()
        now_s = self.now()
        if self.deadly.watchful(now_s) and self.deadly.gone(replica.number, now_s):
            log.warning("replica gone while it had a request", replica=replica.name)

    def poll_succeeded(self, replica: ReplicaState, begun_s: float) -> None:
        """A poll of *replica* that was begun at *begun_s* found it well."""
        if replica.health.poll_succeeded():
            self.came_back(replica)
        if self.deadly.watchful(begun_s):
            self.deadly.alive(replica.number, begun_s)

    def refused(self, replica: ReplicaState, fields: Mapping[bytes, bytes]) -> None:
        """*replica* had no room; its answer's header *fields* may say for how long."""
        replica.health.refused(self.now(), rest_asked_s(fields))
        self.refresh()

    def unknown(self, model: str) -> RequestInvalid | ModelUnknown | ReplicaMissing:
        """Return what is said of a *model* that no replica is known to serve."""
        if not model:
            return RequestInvalid("the request names no model; set 'model'")
        named = repr(model[:MOST_NAME_SHOWN])
        if not self.replicas:
            return ReplicaMissing(f"model {named} has no replica, as no model has; retry later")
        if any(not replica.models for replica in self.replicas.values()):
            return ReplicaMissing(
                f"model {named} is not known yet: a replica has not said what it serves; "
                "retry later"
            )
        known = ", ".join(sorted(self.services)) or "none"
        return ModelUnknown(f"The model {named} does not exist; there are: {known}")


def _seen(replica: ReplicaState, now_s: float) -> ReplicaSeen:
    return ReplicaSeen(
        url=replica.upstream.address.url,
        label=replica.label,
        models=replica.models,
        healthy=replica.health.available(now_s),
        breaker=replica.health.state(now_s),
        ejected_for=replica.health.ejected_for,
        in_flight=replica.load.in_flight,
        load=replica.load.engine_load(now_s),
    )
