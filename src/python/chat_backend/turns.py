"""One turn of a chat: asked of the engine, counted, and given whole or in pieces."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec

from chat_backend.chat_settings import ChatSettings
from chat_backend.engine import ChatEngine
from chat_backend.failures import failure_of
from chat_backend.messages import ChatQuestion, ChatReply, engine_body
from chat_backend.metrics import ChatMetrics
from servekit.errors.tree import ServeError
from servekit.wire.openai import Usage


class AnswerDelta(msgspec.Struct, frozen=True):
    """Some more text."""

    delta: str


class AnswerEnd(msgspec.Struct, frozen=True):
    """The end of a streamed answer.

    Attributes:
        finish_reason: "stop", "length", or "cancelled" where the caller stopped it.
        usage: None where the engine did not come to say it.
    """

    finish_reason: str
    usage: Usage | None
    request_id: str


class Turns:
    """Answers chat requests.  *now* is a clock in seconds."""

    def __init__(
        self,
        engine: ChatEngine,
        telemetry: ChatMetrics,
        settings: ChatSettings,
        now: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._telemetry = telemetry
        self._settings = settings
        self._now = now

    async def whole(self, request: ChatQuestion, request_id: str) -> ChatReply:
        """Return the whole answer.

        Raises:
            EngineError: there is none.
        """
        began = self._now()
        status, usage = "stopped", None
        try:
            answer = await self._engine.complete(engine_body(request, self._settings), request_id)
            status, usage = "success", answer.usage
        except ServeError as error:
            status = failure_of(error).code
            raise
        finally:
            self._telemetry.chat_ended(status, self._now() - began, usage)
        text = "".join(choice.content for choice in answer.choices)
        reason = answer.choices[0].finish_reason if answer.choices else None
        return ChatReply(text, reason or "stop", usage or Usage(), request_id)

    async def pieces(
        self, request: ChatQuestion, request_id: str
    ) -> AsyncGenerator[AnswerDelta | AnswerEnd, None]:
        """Give the answer as it is written, and AnswerEnd last.

        Raises:
            EngineError: before the first piece or between two.
        """
        began = self._now()
        status, usage, reason, spoken = "stopped", None, "stop", False
        body = engine_body(msgspec.structs.replace(request, stream=True), self._settings)
        self._telemetry.stream_began()
        try:
            async with aclosing(self._engine.stream(body, request_id)) as answers:
                async for answer in answers:
                    usage = answer.usage or usage
                    for choice in answer.choices:
                        reason = choice.finish_reason or reason
                        if choice.content and not spoken:
                            spoken = True
                            self._telemetry.first_token(self._now() - began)
                        if choice.content:
                            yield AnswerDelta(choice.content)
            status = "success"
            yield AnswerEnd(reason, usage, request_id)
        except ServeError as error:
            status = failure_of(error).code
            raise
        finally:
            self._telemetry.stream_ended()
            self._telemetry.chat_ended(status, self._now() - began, usage)
