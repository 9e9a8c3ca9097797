"""One turn of a chat: asked of the engine, counted, and given whole or in pieces."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec

from chat_backend.chat_settings import ChatSettings
from chat_backend.engine import ChatEngine
from chat_backend.failures import failure_of, is_too_long
from chat_backend.messages import ChatQuestion, ChatReply, engine_body, fitted, shortened
from chat_backend.metrics import ChatMetrics
from servekit.errors.tree import EngineRefused, ServeError
from servekit.wire.openai import Answer, Usage


class AnswerDelta(msgspec.Struct, frozen=True):
    """Some more text."""

    delta: str


class AnswerEnd(msgspec.Struct, frozen=True):
    """The end of a streamed answer.

    Attributes:
        finish_reason: "stop", "length", or "cancelled" where the caller stopped it.
        usage: None where the engine did not come to say it.
        dropped_turns: oldest turns that the model was not given, for want of room.
    """

    finish_reason: str
    usage: Usage | None
    request_id: str
    dropped_turns: int = 0


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
        question = fitted(request, self._settings.max_message_chars)
        try:
            answer, question = await self._complete(question, request_id)
            status, usage = "success", answer.usage
        except ServeError as error:
            status = failure_of(error).code
            raise
        finally:
            self._telemetry.chat_ended(status, self._now() - began, usage)
        text = "".join(choice.content for choice in answer.choices)
        reason = answer.choices[0].finish_reason if answer.choices else None
        dropped = len(request.history) - len(question.history)
        return ChatReply(text, reason or "stop", usage or Usage(), request_id, dropped)

    async def _complete(
        self, question: ChatQuestion, request_id: str
    ) -> tuple[Answer, ChatQuestion]:
        """Ask, with less of the history each time that the prompt is too long for the model."""
        while True:
            try:
                body = engine_body(question, self._settings)
                return await self._engine.complete(body, request_id), question
            except EngineRefused as error:
                question = _shorter(question, error)

    async def pieces(
        self, request: ChatQuestion, request_id: str
    ) -> AsyncGenerator[AnswerDelta | AnswerEnd, None]:
        """Give the answer as it is written, and AnswerEnd last.

        Raises:
            EngineError: before the first piece or between two.
        """
        began = self._now()
        status, usage, reason, spoken = "stopped", None, "stop", False
        streamed = msgspec.structs.replace(request, stream=True)
        question = fitted(streamed, self._settings.max_message_chars)
        self._telemetry.stream_began()
        try:
            async with aclosing(self._answers(question, request_id)) as answers:
                async for asked, answer in answers:
                    question = asked
                    usage = answer.usage or usage
                    for choice in answer.choices:
                        reason = choice.finish_reason or reason
                        if choice.content and not spoken:
                            spoken = True
                            self._telemetry.first_token(self._now() - began)
                        if choice.content:
                            yield AnswerDelta(choice.content)
            status = "success"
            dropped = len(request.history) - len(question.history)
            yield AnswerEnd(reason, usage, request_id, dropped)
        except ServeError as error:
            status = failure_of(error).code
            raise
        finally:
            self._telemetry.stream_ended()
            self._telemetry.chat_ended(status, self._now() - began, usage)

    async def _answers(
        self, question: ChatQuestion, request_id: str
    ) -> AsyncGenerator[tuple[ChatQuestion, Answer], None]:
        """Stream, with less of the history each time that the prompt is too long for the model.

        The engine refuses before its first event, so nothing was passed on by then.
        """
        while True:
            body = engine_body(question, self._settings)
            try:
                async with aclosing(self._engine.stream(body, request_id)) as answers:
                    async for answer in answers:
                        yield question, answer
                    return
            except EngineRefused as error:
                question = _shorter(question, error)


def _shorter(question: ChatQuestion, error: EngineRefused) -> ChatQuestion:
    """Return *question* with less history, or raise *error* where that would not help."""
    shorter = shortened(question) if is_too_long(error) else None
    if shorter is None:
        raise error
    return shorter
