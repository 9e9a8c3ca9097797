"""What becomes of a request: answered here (health, metrics, models), refused, or relayed."""

from typing import TYPE_CHECKING

from loadbalancer.balancing.balancer import Balancer
from loadbalancer.server.access import Access
from loadbalancer.server.cors import CorsRules
from loadbalancer.server.fan_out import FanOut
from loadbalancer.server.forwarding import Forwarding
from loadbalancer.server.keys import KeyRing
from loadbalancer.server.local_answers import LocalAnswers
from loadbalancer.server.proxied_request import ProxiedRequest
from loadbalancer.server.request_info import read_request
from loadbalancer.server.response_lookup import OwnedRequest, about_response
from loadbalancer.server.websocket import WebSocket, read_upgrade
from loadbalancer.workers.shared_stats import WorkerStats
from servekit.errors.tree import ServeError
from servekit.relay.client_connection import ConnectionLimits, RelayedRequest, Responder
from servekit.relay.heads import HttpRequestHead, bearer
from servekit.relay.responses import LocalResponse, refuse, status_of
from servekit.wire.routes import Route, RouteTable, Target

if TYPE_CHECKING:
    from loadbalancer.observe.tracing import Tracing


_NONE, _CHOSEN = Target.NONE, Target.CHOSEN


class RequestHandlers:
    """Answers for the load balancer; what it does not answer is relayed.

    Attributes:
        tracing: what makes a span of each request that is read to its end; None for none.
    """

    def __init__(
        self,
        balancer: Balancer,
        stats: WorkerStats,
        *,
        clients: bool = True,
        admins: bool = True,
    ) -> None:
        """*clients*, *admins*: whose questions are answered here."""
        self._balancer = balancer
        rules = balancer.rules
        self.limits = ConnectionLimits(
            rules.max_body_bytes,
            answer_timeout_s=rules.answer_timeout_s,
            max_body_memory_bytes=rules.max_body_memory_bytes,
        )
        self.now = balancer.now
        self._clients = clients
        self._table = RouteTable(rules.extra_paths)
        self._access = Access(self._table, clients=clients, admins=admins)
        self._answers = LocalAnswers(balancer, stats)
        self._forwarding = Forwarding()
        self._cors = CorsRules(rules.cors_origins)
        engine_key = balancer.engine_key
        self._engine_key = bearer(engine_key.reveal()) if engine_key else b""
        self.tracing: Tracing | None = None

    @property
    def draining(self) -> bool:
        # How that goes is what admins want to see.
        return self._clients and self._balancer.draining

    def use_keys(self, keys: KeyRing) -> None:
        """Admit clients that have one of *keys*, from now on."""
        self._access.keys = keys

    def use_admin_keys(self, keys: KeyRing) -> None:
        """Admit admins that have one of *keys*, from now on."""
        self._access.admin_keys = keys

    def admit(self, head: HttpRequestHead) -> LocalResponse | None:
        refused = self._access.refusal(head)
        # A browser asks first, and never with a key.
        if refused is None or (refused.status != 404 and self._cors.is_preflight(head)):
            return None
        self._balancer.telemetry.refusals[refused.status] += 1
        return refused

    def refusal_for(self, head: HttpRequestHead | None, answer: LocalResponse) -> LocalResponse:
        """Return *answer* in the dialect of the path, with the headers that all answers have."""
        if head is None:
            return answer
        route = self._table.find(head.target)
        if route is not None:
            answer = answer.in_dialect(route.dialect)
        lines = self._forwarding.id_line(head.fields) + self._cors.lines(head.fields)
        return answer.with_lines(lines)

    def serve(
        self, client: Responder, head: HttpRequestHead, body: bytes
    ) -> LocalResponse | RelayedRequest:
        route = self._table.find(head.target)
        assert route is not None
        fields = head.fields
        own = id_line = self._forwarding.id_line(fields)
        if self._cors:
            own += self._cors.lines(fields)
        if head.method == "OPTIONS":
            return self._cors.preflight(head, route.methods).with_lines(own)
        if route.target is _NONE:
            return self._answers.answer(route, head).with_lines(own)
        if route.target is not _CHOSEN or (route.upgrades and head.method == "GET"):
            return self._serve_elsewhere(client, head, body, route, id_line)
        # Keys that we have asked for are not the engines'; and theirs is only for clients that have
        # shown one: otherwise it would be public.
        credential = self._engine_key if self._access.keys else None
        sent = self._forwarding.head(client, head, id_line, credential=credential)
        traced = None if self.tracing is None else self.tracing.begin(sent, self.now())
        try:
            routable = read_request(self._balancer, fields, body)
        except ServeError as error:
            status = status_of(error)
            self._balancer.telemetry.refusals[status] += 1
            if traced is not None:
                traced.end(self.now(), status=status, error=type(error).__name__)
            raise
        return ProxiedRequest(
            self._balancer,
            client,
            sent if traced is None else traced.head,
            routable,
            body,
            traced,
            route=route,
            own_lines=own,
            engine_key=bool(credential),
        )

    def _serve_elsewhere(
        self, client: Responder, head: HttpRequestHead, body: bytes, route: Route, id_line: bytes
    ) -> LocalResponse | RelayedRequest:
        """Send a request to all replicas, or to the one that keeps what it is about; or open a
        WebSocket."""
        balancer, every = self._balancer, route.target is Target.EVERY
        own = id_line + self._cors.lines(head.fields)
        # An admin has always shown a key.
        credential = self._engine_key if every or self._access.keys else None
        sent = self._forwarding.head(client, head, id_line, credential=credential)
        if every:
            return FanOut(balancer, client, sent, body, route=route, own_lines=own)
        if route.upgrades and head.method == "GET":
            if not self._may_connect(head):
                refused = refuse(403, "pages of this origin may not connect; see --cors-origins")
                return refused.with_lines(own)
            routable = read_upgrade(balancer, head)
            return WebSocket(balancer, client, sent, routable, own_lines=own)
        response_id = self._table.id_in(head.path)
        routable = about_response(balancer, balancer.owner_of(response_id))
        key = bool(credential)
        request = OwnedRequest(
            balancer, client, sent, routable, body, route=route, own_lines=own, engine_key=key
        )
        request.response_id = response_id
        return request

    def _may_connect(self, head: HttpRequestHead) -> bool:
        """Whether a page may open a WebSocket: browsers ask nobody first, and send its origin."""
        origin = head.fields.get(b"origin")
        if origin is None or self._cors.allows(head.fields):
            return True
        return origin.partition(b"://")[2] == head.fields.get(b"host")
