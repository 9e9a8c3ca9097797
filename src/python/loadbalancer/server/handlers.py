"""What becomes of a request: answered here (health, metrics, models), refused, or relayed."""

import time
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING

import msgspec

from loadbalancer.balancing.balancer import Balancer
from loadbalancer.observe.exposition import exposition
from loadbalancer.server.keys import KeyRing
from loadbalancer.server.proxied_request import ProxiedRequest
from loadbalancer.server.request_info import read_request
from loadbalancer.workers.shared_stats import WorkerStats
from servekit.errors.tree import ServeError
from servekit.relay.client_connection import ConnectionLimits, Responder
from servekit.relay.heads import HttpRequestHead, bearer, with_lines
from servekit.relay.responses import LocalResponse, json_answer, not_allowed, refuse, status_of
from servekit.wire import routes

if TYPE_CHECKING:
    from loadbalancer.observe.tracing import Tracing

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"

# Unauthenticated paths: health checks, and a page that holds nothing until a key is entered.
OPEN = frozenset(path.encode() for path in (routes.HEALTH, routes.READY, routes.STATUS))
# They show the state of the fleet, and move to the admin port where there is one.
ADMIN = frozenset(
    path.encode() for path in (routes.METRICS, routes.DECISIONS, routes.REPLICAS, routes.STATUS)
)
# The rest of what vLLM answers outside /v1 changes or shows how one engine works.
RELAYED = frozenset(path.encode() for path in routes.MODEL_ROUTES)
_API = routes.API_PREFIX.encode()
# Nearly all requests are for one of these.
_COMMON = frozenset(path.encode() for path in (routes.CHAT, routes.COMPLETIONS, routes.EMBEDDINGS))

# The header that carries a client's key.
CLIENTS_KEY = frozenset([b"authorization"])


class RequestHandlers:
    """Answers for the load balancer; what it does not answer is relayed.

    Attributes:
        keys: who may send requests; replaced when the file of keys changes.
        tracing: what makes a span of each request that is read to its end; None for none.
    """

    def __init__(self, balancer: Balancer, stats: WorkerStats, *, admin: bool = True) -> None:
        """*admin*: whether those questions are answered here too."""
        self._balancer = balancer
        self._stats = stats
        rules = balancer.rules
        self.limits = ConnectionLimits(
            rules.max_body_bytes,
            answer_timeout_s=rules.answer_timeout_s,
            max_body_memory_bytes=rules.max_body_memory_bytes,
        )
        self.now = balancer.now
        self.keys = KeyRing()
        self._has_engine_key = bool(balancer.engine_key)
        self.tracing: Tracing | None = None
        # When a model was made is unknown here; strict clients require a time.
        self._created_s = int(time.time())
        self._page = (resources.files("loadbalancer.server") / "status.html").read_bytes()
        local: dict[bytes, Callable[[], LocalResponse]] = {
            routes.HEALTH.encode(): self._health,
            routes.READY.encode(): self._ready,
            routes.METRICS.encode(): self._metrics,
            routes.MODELS.encode(): self._models,
            routes.DECISIONS.encode(): self._decisions,
            routes.REPLICAS.encode(): self._replicas,
            routes.STATUS.encode(): self._status,
        }
        self._routes = {path: r for path, r in local.items() if admin or path not in ADMIN}

    @property
    def draining(self) -> bool:
        return self._balancer.draining

    def admit(self, head: HttpRequestHead) -> LocalResponse | None:
        refused = self._refusal(head)
        if refused is not None:
            self._balancer.telemetry.refusals[refused.status] += 1
        return refused

    def serve(
        self, client: Responder, head: HttpRequestHead, body: bytes
    ) -> LocalResponse | ProxiedRequest:
        route = self._routes.get(head.path)
        if route is not None:
            return route()
        engine_key = self._has_engine_key and bool(self.keys)
        if engine_key:
            # Only for clients with a valid key: otherwise the engines' key would be public.
            key = bearer(self._balancer.engine_key.reveal())
            head = with_lines(head, key, instead_of=CLIENTS_KEY)
        traced = None if self.tracing is None else self.tracing.begin(head, self.now())
        try:
            routable = read_request(self._balancer, head.fields, body)
        except ServeError as error:
            status = status_of(error)
            self._balancer.telemetry.refusals[status] += 1
            if traced is not None:
                traced.end(self.now(), status=status, error=type(error).__name__)
            raise
        sent = head if traced is None else traced.head
        return ProxiedRequest(
            self._balancer, client, sent, routable, body, traced, engine_key=engine_key
        )

    def _refusal(self, head: HttpRequestHead) -> LocalResponse | None:
        path = head.path
        known = path in self._routes
        if not known and not _is_relayed(path):
            return refuse(404, "unknown endpoint; this server has /health, /metrics and /v1/models")
        taken = ("GET", "HEAD") if known else ("POST",)
        if head.method not in taken:
            return not_allowed(f"{path.decode()} supports {taken[0]} only", taken)
        if path not in OPEN and not self.keys.admits(head.fields.get(b"authorization", b"")):
            return refuse(401, "missing or invalid API key; send 'Authorization: Bearer KEY'")
        return None

    def _health(self) -> LocalResponse:
        """The original load balancers' answer: always 200, with how many endpoints are healthy."""
        now_s = self._balancer.now()
        replicas = self._balancer.replicas.values()
        healthy = sum(replica.health.available(now_s) for replica in replicas)
        status = "healthy" if healthy == len(replicas) else "degraded" if healthy else "unhealthy"
        endpoints = [replica.upstream.address.url for replica in replicas]
        return json_answer({"status": status, "endpoints": endpoints, "healthy_endpoints": healthy})

    def _ready(self) -> LocalResponse:
        """Ready where at least one replica can take a request, and we are not leaving."""
        if self._balancer.draining:
            return refuse(503, "the load balancer is draining")
        # One that is full is still one: more balancers would not make it less so.
        replicas = self._balancer.replicas.values()
        if not any(replica.models and replica.health.reachable for replica in replicas):
            return refuse(503, "no replica is healthy")
        return json_answer({"status": "ready"})

    def _metrics(self) -> LocalResponse:
        return LocalResponse(200, exposition(self._stats.snapshot()), EXPOSITION)

    def _models(self) -> LocalResponse:
        cards = [
            {
                "id": model,
                "object": "model",
                "created": self._created_s,
                "owned_by": "servekit",
                "replicas": len(service.pool),
            }
            for model, service in self._balancer.services.items()
            if service.pool
        ]
        return json_answer({"object": "list", "data": cards})

    def _replicas(self) -> LocalResponse:
        """What is known of each replica; a load that is stale is unknown."""
        seen = self._stats.snapshot().replicas
        return json_answer(
            [{"name": name, **msgspec.structs.asdict(replica)} for name, replica in seen.items()]
        )

    def _status(self) -> LocalResponse:
        return LocalResponse(200, self._page, "text/html; charset=utf-8")

    def _decisions(self) -> LocalResponse:
        return json_answer(self._stats.snapshot().lately)


def _is_relayed(path: bytes) -> bool:
    """Whether an engine may be asked for *path*.

    None of vLLM's has a dot or an escape in it; with them, whatever cleans up paths on the way to
    an engine would turn /v1/../sleep into something else.
    """
    if path in _COMMON:
        return True
    if path.startswith(_API):
        return b"." not in path and b"%" not in path
    return path in RELAYED


class AdminHandlers:
    """Answers on the port for those who look after the load balancer, and relays nothing."""

    def __init__(self, handlers: RequestHandlers) -> None:
        """*handlers* has the answers, and the keys."""
        self._handlers = handlers
        self.limits = handlers.limits
        self.now = handlers.now

    # Not while draining either: how that goes is what they want to see.
    draining = False

    def admit(self, head: HttpRequestHead) -> LocalResponse | None:
        if head.path.startswith(_API) or head.path in RELAYED:
            return refuse(404, "not available on the admin port")
        return self._handlers.admit(head)

    def serve(
        self, client: Responder, head: HttpRequestHead, body: bytes
    ) -> LocalResponse | ProxiedRequest:
        return self._handlers.serve(client, head, body)
