"""What goes out for one request: a stream of events, or one body at the end."""

import asyncio
from collections.abc import Callable

from simulator.answer_plan import WORDS, AnswerPlan
from simulator.templates import AnswerKind, chunked, role_event, token_event, token_events


class EngineGone(Exception):
    """The engine was cut off in the middle of the answer."""


class PendingAnswer:
    """The choices of one request, which may be several prompts.

    Attributes:
        done: set when every choice has its last token; EngineGone where the engine died.
    """

    def __init__(self, choices: int) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.tokens = [0] * choices
        self._open = choices

    def close_one(self) -> None:
        self._open -= 1
        if not self._open and not self.done.done():
            self.done.set_result(None)

    def fail(self) -> None:
        if not self.done.done():
            self.done.set_exception(EngineGone())


class WholeChoice:
    """Counts tokens; the body is written when all choices are done."""

    def __init__(self, answer: PendingAnswer, index: int, cut_after: int | None) -> None:
        self._answer = answer
        self._index = index
        self._cut_after = cut_after

    def token(self) -> None:
        self._answer.tokens[self._index] += 1
        if self._answer.tokens[self._index] == self._cut_after:
            self._answer.fail()

    def last(self) -> None:
        self._answer.tokens[self._index] += 1
        self._answer.close_one()

    def cut(self) -> None:
        self._answer.fail()


class StreamedChoice:
    """Writes each token as an event at once: one write per token, of bytes that were ready."""

    def __init__(
        self,
        answer: PendingAnswer,
        index: int,
        kind: AnswerKind,
        plan: AnswerPlan,
        transport: asyncio.WriteTransport,
        cut_after: int | None,
    ) -> None:
        self._answer = answer
        self._index = index
        self._kind = kind
        self._plan = plan
        # An answer of words alone needs none but these.
        self._plain = plan.length is None and not plan.prefix
        self._transport = transport
        self._write: Callable[[bytes], None] = transport.write
        self._cut_after = cut_after
        self._events = [chunked(event) for event in token_events(kind, index)]
        # The role comes with the first token, as in vLLM: there is nothing to say before it.
        self._before = chunked(role_event(kind, index)) if kind.chat else b""
        self._count = 0

    def token(self) -> None:
        if self._plain:
            event = self._events[self._count % len(WORDS)]
        else:
            text = self._plan.word(self._count)
            event = chunked(token_event(self._kind, self._index, text))
        if self._before:
            event = self._before + event
            self._before = b""
        self._count += 1
        self._write(event)
        if self._count == self._cut_after:
            self.cut()

    def last(self) -> None:
        plan = self._plan
        text = plan.word(self._count)
        event = token_event(self._kind, self._index, text, plan.reason, plan.stop_reason)
        self._write(self._before + chunked(event))
        self._answer.tokens[self._index] = self._count + 1
        self._answer.close_one()

    def cut(self) -> None:
        """Close at once: the handler may only run after further steps."""
        self._transport.close()
        self._write = _write_nothing
        self._answer.fail()


def _write_nothing(_: bytes) -> None:
    """Where the connection is closed already."""
