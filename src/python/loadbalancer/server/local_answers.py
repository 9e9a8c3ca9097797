"""What the load balancer answers by itself: its health, its models, its metrics."""

import time
from collections.abc import Callable
from importlib import resources
from urllib.parse import unquote_to_bytes

import msgspec

from loadbalancer.balancing.balancer import Balancer
from loadbalancer.observe.exposition import exposition
from loadbalancer.workers.shared_stats import WorkerStats
from servekit.relay.heads import HttpRequestHead
from servekit.relay.responses import LocalResponse, json_answer, refuse
from servekit.wire import routes
from servekit.wire.routes import Route

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"
# What Anthropic's clients send with every request.
_ANTHROPIC = b"anthropic-version"


class LocalAnswers:
    """Answers by path."""

    def __init__(self, balancer: Balancer, stats: WorkerStats) -> None:
        self._balancer = balancer
        self._stats = stats
        # When a model was made is unknown here; strict clients require a time.
        self._created_s = int(time.time())
        self._page = (resources.files("loadbalancer.server") / "status.html").read_bytes()
        self._answers: dict[str, Callable[[HttpRequestHead], LocalResponse]] = {
            routes.HEALTH: lambda _: self._health(),
            routes.READY: lambda _: self._ready(),
            routes.METRICS: lambda _: self._metrics(),
            routes.MODELS: self._models,
            routes.MODEL: self._model,
            routes.DECISIONS: lambda _: json_answer(self._stats.snapshot().lately),
            routes.REPLICAS: lambda _: self._replicas(),
            routes.STATUS: lambda _: LocalResponse(200, self._page, "text/html; charset=utf-8"),
        }

    def answer(self, route: Route, head: HttpRequestHead) -> LocalResponse:
        """Return the answer to *head*, whose path is that of *route*."""
        return self._answers[route.path](head)

    def _health(self) -> LocalResponse:
        """The original load balancers' answer: always 200, with how many endpoints are healthy.

        Anyone may ask, so that endpoints are named and their addresses are not.
        """
        now_s = self._balancer.now()
        replicas = self._balancer.replicas.values()
        healthy = sum(replica.health.available(now_s) for replica in replicas)
        status = "healthy" if healthy == len(replicas) else "degraded" if healthy else "unhealthy"
        endpoints = [replica.label for replica in replicas]
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

    def _replicas(self) -> LocalResponse:
        """What is known of each replica; a load that is stale is unknown."""
        seen = self._stats.snapshot().replicas
        return json_answer(
            [{"name": name, **msgspec.structs.asdict(replica)} for name, replica in seen.items()]
        )

    def _models(self, head: HttpRequestHead) -> LocalResponse:
        services = self._balancer.services.items()
        cards = [self._card(model, head) for model, service in services if service.pool]
        if _ANTHROPIC not in head.fields:
            return json_answer({"object": "list", "data": cards})
        ends = (cards[0]["id"], cards[-1]["id"]) if cards else (None, None)
        return json_answer(
            {"data": cards, "has_more": False, "first_id": ends[0], "last_id": ends[1]}
        )

    def _model(self, head: HttpRequestHead) -> LocalResponse:
        # Clients write the slash of a name as it is, or as %2F.
        asked = unquote_to_bytes(head.path.removeprefix(routes.MODELS.encode() + b"/"))
        model = asked.decode("utf-8", "replace")
        service = self._balancer.services.get(model)
        if service is None or not service.pool:
            return refuse(404, str(self._balancer.unknown(model)))
        return json_answer(self._card(model, head))

    def _card(self, model: str, head: HttpRequestHead) -> dict[str, object]:
        if _ANTHROPIC in head.fields:
            made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._created_s))
            return {"type": "model", "id": model, "display_name": model, "created_at": made}
        return {
            "id": model,
            "object": "model",
            "created": self._created_s,
            "owned_by": "servekit",
            "replicas": len(self._balancer.services[model].pool),
        }
