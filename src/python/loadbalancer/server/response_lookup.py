"""Requests about a response that a replica keeps: sent there, once it is known where that is."""

import asyncio
from collections.abc import Iterable

import msgspec

from loadbalancer.balancing.balancer import Balancer
from loadbalancer.balancing.replicas import ReplicaState, RoutableRequest
from loadbalancer.server.proxied_request import ProxiedRequest
from servekit.errors.tree import EngineError, ReplicaMissing, ResponseUnknown
from servekit.relay.heads import HttpRequestHead, request_head
from servekit.routing.request import RouteRequest
from servekit.wire import routes

# To say whether it keeps a response, an engine looks into a table.
TIMEOUT_S = 2.0
# Replicas that are asked at one time.
AT_ONCE = 32


class OwnedRequest(ProxiedRequest):
    """A request for the one replica that keeps a response; the others are asked only where that is
    unknown, as after a restart of this program."""

    __slots__ = ("response_id",)

    response_id: str

    def start(self) -> None:
        if self._routable.owner:
            super().start()
        else:
            self._connecting = asyncio.get_running_loop().create_task(self._look_for_owner())

    async def _look_for_owner(self) -> None:
        balancer, response_id = self._balancer, self.response_id
        owner = await _find_owner(balancer, self._head, response_id)
        self._connecting = None
        if owner is None:
            self._fail(
                ResponseUnknown(f"response {response_id!r} is kept by no replica; create it again")
            )
            return
        balancer.response_owners.add(response_id, owner.number)
        try:
            self._routable = about_response(balancer, owner)
        except ReplicaMissing as error:
            self._fail(error)
            return
        super().start()


def about_response(balancer: Balancer, owner: ReplicaState | None) -> RoutableRequest:
    """Return a request for *owner*; with None one of which the owner is still to be found.

    Raises:
        ReplicaMissing: no replica serves anything.
    """
    models: Iterable[str] = balancer.services if owner is None else owner.models
    service = next((balancer.services[m] for m in models if m in balancer.services), None)
    if service is None:
        raise ReplicaMissing("no replica that could keep the response is there; retry later")
    name = "" if owner is None else owner.name
    return RoutableRequest(service, service.policy, RouteRequest(service.model), owner=name)


async def _find_owner(
    balancer: Balancer, head: HttpRequestHead, response_id: str
) -> ReplicaState | None:
    """Ask the replicas, with the credentials in *head*, which of them keeps the response."""
    target = routes.RESPONSE.replace("{id}", response_id).encode()
    question = msgspec.structs.replace(head, method="GET", target=target)
    replicas = [r for r in balancer.replicas.values() if r.health.reachable]
    for start in range(0, len(replicas), AT_ONCE):
        asked = replicas[start : start + AT_ONCE]
        keeps = await asyncio.gather(*(_keeps(replica, question) for replica in asked))
        found = next((r for r, yes in zip(asked, keeps, strict=True) if yes), None)
        if found is not None:
            return found
    return None


async def _keeps(replica: ReplicaState, question: HttpRequestHead) -> bool:
    upstream = replica.upstream
    head = request_head(question, upstream.path, upstream.authority, 0)
    try:
        status, _ = await upstream.ask(head, b"", TIMEOUT_S)
    except EngineError:
        return False
    return status == 200
