"""Takes requests away from replicas that are gone or stuck; called a few times a second.

A request without a first byte is sent to another replica, a begun stream is ended with an error.
It reads the requests under way, so that the data path keeps no books for it.
"""

from collections.abc import Callable, Iterable

import structlog

from loadbalancer.balancing.balancer import Balancer
from loadbalancer.balancing.progress import Progress
from loadbalancer.balancing.replicas import ReplicaState
from loadbalancer.server.answer_faults import NO_PROGRESS
from loadbalancer.server.proxied_request import ProxiedRequest
from loadbalancer.server.websocket import WebSocket

# A begun stream of a replica that polls do not find may go on for so long without a piece.
SILENT_S = 2.0

log = structlog.get_logger()


class ReplicaWatch:
    """What came of each replica, and when."""

    def __init__(self, balancer: Balancer, requests: Callable[[], Iterable[object]]) -> None:
        """*requests* gives all that is under way."""
        self._balancer = balancer
        self._requests = requests
        self._progress: dict[str, Progress] = {}
        # Models and replicas of requests without a first byte.
        self._waiting: set[tuple[str, str]] = set()

    def sweep(self) -> None:
        """Look at every replica that has requests."""
        now_s = self._balancer.now()
        held: dict[str, list[ProxiedRequest]] = {}
        for request in self._requests():
            if isinstance(request, WebSocket):
                self._look_at_websocket(request, now_s)
            elif isinstance(request, ProxiedRequest) and request.sent_to is not None:
                held.setdefault(request.sent_to, []).append(request)
        for name in self._progress.keys() - held.keys():
            del self._progress[name]
        self._waiting = {
            (request.service.model, name)
            for name, requests in held.items()
            for request in requests
            if not request.begun
        }
        for name, requests in held.items():
            replica = self._balancer.replicas.get(name)
            if replica is not None:
                self._look(replica, requests, now_s)

    def _look_at_websocket(self, websocket: WebSocket, now_s: float) -> None:
        """One that is silent is no fault, unless its replica does not answer polls either."""
        replica = self._balancer.replicas.get(websocket.sent_to or "")
        silent = now_s - websocket.heard_s > SILENT_S
        if replica is not None and silent and not replica.health.reachable:
            websocket.cut_off("the replica does not answer any more; retry later")

    def _look(self, replica: ReplicaState, requests: list[ProxiedRequest], now_s: float) -> None:
        progress = self._progress.setdefault(replica.name, Progress())
        load = replica.load.last_load
        progress.look(
            (
                sum(request.chunks_received for request in requests),
                self._balancer.telemetry.requests[replica.name, "done"],
                load.generation_tokens if load else None,
                load.prompt_tokens if load else None,
            ),
            now_s,
        )
        if not replica.health.reachable:
            silent = now_s - progress.still_since_s > SILENT_S
            _take_away(requests, "the replica does not answer any more", cut=silent)
        elif self._is_stuck(replica, requests, progress.still_since_s, now_s):
            log.warning("replica stuck", replica=replica.name, requests=len(requests))
            service = requests[0].service
            self._balancer.telemetry.faults[replica.name, NO_PROGRESS] += 1
            self._balancer.take_out(service, replica, NO_PROGRESS)
            _take_away(requests, "the replica makes no progress", cut=True)

    def _is_stuck(
        self,
        replica: ReplicaState,
        requests: list[ProxiedRequest],
        still_since_s: float,
        now_s: float,
    ) -> bool:
        load = replica.load.engine_load(now_s)
        counts_tokens = load is not None and load.generation_tokens is not None
        return any(
            request.service.first_bytes.is_stuck(
                replica.name,
                request.waiting,
                still_since_s,
                now_s,
                siblings_wait=self._siblings_wait(request.service.model, replica.name),
            )
            for request in requests
            # Where an engine does not say how many tokens it makes, a long answer that is not
            # streamed looks like none.
            if not request.begun and (counts_tokens or request.streams)
        )

    def _siblings_wait(self, model: str, replica: str) -> bool:
        return any(m == model and name != replica for m, name in self._waiting)


def _take_away(requests: list[ProxiedRequest], why: str, *, cut: bool) -> None:
    for request in requests:
        if not request.begun:
            request.leave_replica()
        elif cut:
            request.cut_off(f"{why}; retry later")
