"""What becomes of a request: answered here (health, metrics, models), refused, or relayed."""

from importlib import resources

from loadbalancer.balancer import Balancer
from loadbalancer.exchange import Exchange
from loadbalancer.exposition import exposition
from loadbalancer.keys import KeyRing
from servekit.relay.answers import Answer, json_answer, refuse
from servekit.relay.front import Client, Limits
from servekit.relay.heads import RequestHead

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


class FrontDesk:
    """Answers for the load balancer; what it does not answer is relayed."""

    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer
        rules = balancer.rules
        self.limits = Limits(rules.max_body_bytes, answer_timeout_s=rules.answer_timeout_s)
        self.now = balancer.now
        self.keys = KeyRing()
        self._page = (resources.files("loadbalancer") / "status.html").read_bytes()
        self._routes = {
            b"/health": self._health,
            b"/readyz": self._ready,
            b"/metrics": self._metrics,
            b"/v1/models": self._models,
            b"/decisions": self._decisions,
            b"/replicas": self._replicas,
            b"/status": self._status,
        }

    @property
    def draining(self) -> bool:
        return self._balancer.draining

    def admit(self, head: RequestHead) -> Answer | None:
        path = head.path
        if path in self._routes:
            if head.method in ("GET", "HEAD"):
                return None
            return refuse(405, f"{path.decode()} takes GET only")
        if not path.startswith(b"/v1/"):
            return refuse(404, "there is no such endpoint; see /health, /metrics and /v1/models")
        if head.method != "POST":
            return refuse(405, f"{path.decode()} takes POST only")
        if not self.keys.admits(head.fields.get(b"authorization", b"")):
            return refuse(401, "the key is missing or wrong; send 'Authorization: Bearer KEY'")
        return None

    def serve(self, client: Client, head: RequestHead, body: bytes) -> Answer | Exchange:
        route = self._routes.get(head.path)
        if route is not None:
            return route()
        return Exchange(self._balancer, client, head, self._balancer.read(head.fields, body), body)

    def _health(self) -> Answer:
        """The seed's answer: always 200, with how many endpoints are healthy."""
        now_s = self._balancer.now()
        replicas = self._balancer.replicas.values()
        healthy = sum(replica.health.available(now_s) for replica in replicas)
        status = "healthy" if healthy == len(replicas) else "degraded" if healthy else "unhealthy"
        endpoints = [replica.upstream.address.url for replica in replicas]
        return json_answer({"status": status, "endpoints": endpoints, "healthy_endpoints": healthy})

    def _ready(self) -> Answer:
        """Ready where at least one replica can take a request, and we are not leaving."""
        if self._balancer.draining:
            return refuse(503, "the load balancer is draining")
        if not any(service.pool for service in self._balancer.services.values()):
            return refuse(503, "no replica is healthy")
        return json_answer({"status": "ready"})

    def _metrics(self) -> Answer:
        return Answer(200, exposition(self._balancer), EXPOSITION)

    def _models(self) -> Answer:
        cards = [
            {"id": model, "object": "model", "owned_by": "servekit", "replicas": len(service.pool)}
            for model, service in self._balancer.services.items()
            if service.pool
        ]
        return json_answer({"object": "list", "data": cards})

    def _replicas(self) -> Answer:
        """What is known of each replica; a load that is stale is unknown."""
        now_s = self._balancer.now()
        return json_answer(
            [
                {
                    "name": replica.name,
                    "url": replica.upstream.address.url,
                    "models": replica.models,
                    "healthy": replica.health.available(now_s),
                    "in_flight": replica.account.ours,
                    "load": replica.account.load(now_s),
                }
                for replica in self._balancer.replicas.values()
            ]
        )

    def _status(self) -> Answer:
        return Answer(200, self._page, "text/html; charset=utf-8")

    def _decisions(self) -> Answer:
        return json_answer(
            [
                {"at_s": at_s, "decision": decision, "shadow": shadow}
                for at_s, decision, shadow in self._balancer.decisions
            ]
        )
