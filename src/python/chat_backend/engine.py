"""The engine below: OpenAI's interface over aiohttp."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType

import aiohttp

from chat_backend.chat_settings import ChatSettings
from servekit.errors.tree import (
    EngineError,
    EngineRefused,
    EngineTimeout,
    EngineUnreachable,
    RequestInvalid,
    StreamCut,
)
from servekit.wire.openai import Answer, read_answer
from servekit.wire.sse import DONE, SseDecoder

_JSON = {"Content-Type": "application/json"}

# A probe must be answered before the next one.
READY_TIMEOUT_S = 2.0


class ChatEngine:
    """One engine, or a load balancer before several.  Use as a context manager."""

    def __init__(self, settings: ChatSettings) -> None:
        self._settings = settings
        self._url = settings.engine_url.rstrip("/")

    async def __aenter__(self) -> "ChatEngine":
        # sock_read bounds the wait for the next bytes, so a long answer may take its time.
        timeout = aiohttp.ClientTimeout(
            total=None,
            sock_connect=self._settings.connect_timeout_s,
            sock_read=self._settings.request_timeout_s,
        )
        self._session = aiohttp.ClientSession(
            timeout=timeout, connector=aiohttp.TCPConnector(limit=0)
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()

    @asynccontextmanager
    async def send(
        self, method: str, path: str, body: bytes | None, request_id: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Give the engine's answer, whatever its status, while the context lasts.

        Raises:
            EngineUnreachable: no connection.
            EngineTimeout: connected, but silent for REQUEST_TIMEOUT_S.
            StreamCut: the connection broke.
        """
        headers = {"X-Request-Id": request_id, **(_JSON if body is not None else {})}
        try:
            async with self._session.request(
                method, self._url + path, data=body, headers=headers
            ) as response:
                yield response
        except aiohttp.ClientConnectorError as error:
            raise self._unreachable() from error
        except aiohttp.ConnectionTimeoutError as error:
            raise self._unreachable() from error
        except TimeoutError as error:
            raise EngineTimeout(
                f"the model did not answer within {self._settings.request_timeout_s:g} s; try again"
            ) from error
        except aiohttp.ClientError as error:
            raise StreamCut("the model's answer broke off; try again") from error

    def _unreachable(self) -> EngineUnreachable:
        return EngineUnreachable("the model is not running or still loads; try again in a moment")

    async def complete(self, body: bytes, request_id: str) -> Answer:
        """Return the whole answer to a chat completion.

        Raises:
            EngineError: as for `send`, or EngineRefused with the engine's status and words.
        """
        async with self.send("POST", "/v1/chat/completions", body, request_id) as response:
            answer = await _read(response)
        return answer  # noqa: RET504  # mypy thinks that `send` may swallow an error

    async def stream(self, body: bytes, request_id: str) -> AsyncGenerator[Answer, None]:
        """Give the pieces of a streamed chat completion as they arrive.

        Raises:
            EngineError: as for `complete`; StreamCut where the stream ended before its end mark.
        """
        decoder = SseDecoder()
        async with self.send("POST", "/v1/chat/completions", body, request_id) as response:
            if response.status != 200:
                await _read(response)
            async for piece in response.content.iter_any():
                for event in decoder.feed(piece):
                    if event.data == DONE:
                        return
                    yield _understood(event.data)
        raise StreamCut("the model's answer broke off; try again")

    async def serves(self) -> bool:
        """Whether the model is in the engine's list: healthy is not yet loaded."""
        try:
            async with (
                self._session.get(
                    self._url + "/v1/models",
                    timeout=aiohttp.ClientTimeout(total=READY_TIMEOUT_S),
                ) as response,
            ):
                listed = await response.read() if response.status == 200 else b""
        except (aiohttp.ClientError, TimeoutError):
            return False
        return f'"{self._settings.model_name}"'.encode() in listed


async def _read(response: aiohttp.ClientResponse) -> Answer:
    raw = await response.read()
    if response.status == 200:
        return _understood(raw)
    try:
        said = read_answer(raw).error
    except RequestInvalid:
        said = None
    words = said.message if said else f"the model answered with status {response.status}"
    raise EngineRefused(words, status=response.status)


def _understood(raw: bytes) -> Answer:
    try:
        answer = read_answer(raw)
    except RequestInvalid as error:
        raise EngineError("the model's answer cannot be read; see its log") from error
    if answer.error:
        raise EngineRefused(answer.error.message, status=500)
    return answer
