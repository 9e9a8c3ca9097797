"""A conversation over one WebSocket: requests in, pieces out, and a stop in between."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from chat_backend.failures import failure_of
from chat_backend.messages import ChatQuestion
from chat_backend.turns import AnswerEnd, Turns
from servekit.errors.tree import RequestError, ServeError

ReadRequest = Callable[[str], ChatQuestion]


class SocketChat:
    """Answers one request at a time.

    In: a chat request, or `{"stop": true}`.  Out: `{"delta": …}`, then `{"done": …}` or
    `{"error": …}`.
    """

    def __init__(
        self, websocket: WebSocket, turns: Turns, read: ReadRequest, request_id: str
    ) -> None:
        self._websocket = websocket
        self._turns = turns
        self._read = read
        self._request_id = request_id
        self._answering: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve the connection until the client closes it, then cancel the running answer."""
        try:
            while True:
                await self._take(await self._receive())
        except WebSocketDisconnect:
            return
        finally:
            await self._stop()

    async def _receive(self) -> str:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1006))
        return message.get("text") or ""

    async def _take(self, text: str) -> None:
        if _is_stop(text):
            if await self._stop():
                await self._say(done=AnswerEnd("cancelled", None, self._request_id))
            return
        try:
            if self._answering and not self._answering.done():
                raise RequestError("an answer is under way; stop it or wait for its end")
            request = self._read(text)
        except ServeError as error:
            await self._say_error(error)
            return
        self._answering = asyncio.create_task(self._answer(request))

    async def _answer(self, request: ChatQuestion) -> None:
        try:
            async with aclosing(self._turns.pieces(request, self._request_id)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, AnswerEnd):
                        await self._say(done=piece)
                    else:
                        await self._say(delta=piece.delta)
        except ServeError as error:
            await self._say_error(error)
        except WebSocketDisconnect:
            return

    async def _stop(self) -> bool:
        """End the answer under way; return whether there was one."""
        answering, self._answering = self._answering, None
        if answering is None or answering.done():
            return False
        answering.cancel()
        await asyncio.wait([answering])
        return True

    async def _say_error(self, error: ServeError) -> None:
        await self._say(error=failure_of(error).reply(self._request_id).error)

    async def _say(self, **fields: object) -> None:
        if self._websocket.application_state is WebSocketState.CONNECTED:
            await self._websocket.send_text(msgspec.json.encode(fields).decode())


def _is_stop(text: str) -> bool:
    try:
        asked = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return False
    return isinstance(asked, dict) and asked.get("stop") is True
