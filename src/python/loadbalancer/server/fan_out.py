"""What an admin asks of every replica at once: one answer says what each of them said."""

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec

from loadbalancer.balancing.balancer import Balancer
from loadbalancer.balancing.replicas import ReplicaState
from servekit.errors.tree import EngineError, ModelUnknown, ReplicaMissing, ServeError
from servekit.relay.client_connection import Responder
from servekit.relay.heads import HttpRequestHead, request_head
from servekit.relay.responses import LocalResponse, json_answer, refusal
from servekit.wire.openai import read_models
from servekit.wire.routes import MODELS, Route

# Which model's replicas are asked; without it, all.
MODEL_HEADER = b"x-servekit-model"

# What replicas disagree about has no status of its own; 207 would be taken for a success.
MIXED = 502
_LIST_TIMEOUT_S = 5.0


class FanOut:
    """An admin's request, on its way to the replicas.

    Attributes:
        chunks_received: answers so far (count).
    """

    bodiless = False

    def __init__(
        self,
        balancer: Balancer,
        client: Responder,
        head: HttpRequestHead,
        body: bytes,
        *,
        route: Route,
        own_lines: bytes,
    ) -> None:
        self._balancer = balancer
        self._client = client
        self._head = head
        self._body = body
        self._route = route
        self._own_lines = own_lines
        self._asking: asyncio.Task[None] | None = None
        self.chunks_received = 0
        self.keep_alive = head.keep_alive

    def start(self) -> None:
        """Ask all of them."""
        self._asking = asyncio.get_running_loop().create_task(self._ask_all())

    def abandon(self) -> None:
        """The client is gone.  What engines were told they do all the same."""
        if self._asking is not None:
            self._asking.cancel()

    def time_out(self) -> None:
        """A replica has not answered for too long: each has a limit of its own."""

    def client_sent(self, data: bytes) -> bool:
        """The next request waits for the answer to this one."""
        del data
        return False

    def pause(self) -> None:
        """There is nothing to pause: the answer is sent whole."""

    def resume(self) -> None:
        pass

    async def _ask_all(self) -> None:
        try:
            replicas = self._chosen()
        except ServeError as error:
            self._answer(refusal(error))
            return
        said = await asyncio.gather(*(self._ask(replica) for replica in replicas))
        if self._route.path.endswith("_lora_adapter"):
            # Who loads an adapter asks for it next.
            await asyncio.gather(*(self._list_models(replica) for replica in replicas))
            self._balancer.models_changed()
        answers = {r.name: one for r, one in zip(replicas, said, strict=True)}
        self._answer(json_answer({"replicas": answers}, _status(said)))

    def _chosen(self) -> list[ReplicaState]:
        """Return the replicas that are asked.

        Raises:
            ModelUnknown: no replica serves the model that was named.
            ReplicaMissing: there are none.
        """
        balancer, named = self._balancer, self._head.fields.get(MODEL_HEADER)
        if named is None:
            if not balancer.replicas:
                raise ReplicaMissing("there is no replica; retry later")
            return list(balancer.replicas.values())
        model = named.decode("utf-8", "replace")
        if model not in balancer.services:
            raise ModelUnknown(str(balancer.unknown(model)))
        return list(balancer.services[model].replicas)

    async def _ask(self, replica: ReplicaState) -> dict[str, Any]:
        upstream, limit_s = replica.upstream, self._balancer.rules.answer_timeout_s
        head = request_head(self._head, upstream.path, upstream.authority, len(self._body))
        try:
            status, body = await upstream.ask(head, self._body, limit_s)
        except EngineError as error:
            return {"status": None, "error": str(error)}
        finally:
            self.chunks_received += 1
        return {"status": status, "answer": _readable(body)}

    async def _list_models(self, replica: ReplicaState) -> None:
        try:
            status, body = await replica.upstream.fetch(MODELS, _LIST_TIMEOUT_S)
            if status == 200:
                cards = read_models(body).data
                self._balancer.listed(replica, tuple(card.id for card in cards))
        except ServeError:
            # Its next poll will tell.
            return

    def _answer(self, answer: LocalResponse) -> None:
        self._client.answer(answer.with_lines(self._own_lines))


def _status(said: Iterable[dict[str, Any]]) -> int:
    """Return 200 where all succeeded, what all say where they agree, and else 502."""
    statuses = {one["status"] for one in said}
    if all(status is not None and 200 <= status < 300 for status in statuses):
        return 200
    (status, *others) = statuses
    return MIXED if others or status is None else status


def _readable(body: bytes) -> Any:
    """JSON as it is, and anything else as text."""
    try:
        return msgspec.json.decode(body) if body else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body.decode("utf-8", "replace")
