"""The body of an answer, as timed pieces -> when its text came and how it ended.  Pure."""

from servekit.client.outcome import Fault
from servekit.errors.tree import RequestInvalid, StreamCut
from servekit.wire.openai import Answer, Usage, read_answer
from servekit.wire.sse import DONE, SseDecoder

# Enough for the first sentence of an error; the whole of it may quote a prompt.
DETAIL_CHARS = 200


class StreamReading:
    """A streamed answer: `read()` each piece with the time at which it arrived.

    Several events in a piece share its time, which is when the reader could first have known
    them.  Nothing raises: a broken stream sets `error`.
    """

    def __init__(self) -> None:
        self._decoder = SseDecoder()
        self._content_s: list[float] = []
        self._done = False
        self.usage: Usage | None = None
        self.error: str | None = None
        self.detail = ""

    @property
    def content_s(self) -> tuple[float, ...]:
        """When each event with text in it arrived, in order."""
        return tuple(self._content_s)

    def read(self, piece: bytes, at_s: float) -> None:
        if self.error is not None:
            return
        try:
            for event in self._decoder.feed(piece):
                if event.data == DONE:
                    self._done = True
                else:
                    self._take(read_answer(event.data), at_s)
        except (RequestInvalid, StreamCut) as error:
            self._fail(Fault.MALFORMED, str(error))

    def finish(self) -> None:
        """Say that no more pieces follow."""
        if self.error is not None:
            return
        if not self._done:
            self._fail(Fault.CUT, "the stream ended without [DONE]")
        elif not self._content_s:
            self._fail(Fault.EMPTY, "the stream carried no text")

    def _take(self, answer: Answer, at_s: float) -> None:
        if answer.error is not None:
            self._fail(Fault.ERROR_EVENT, answer.error.message)
            return
        if answer.usage is not None:
            self.usage = answer.usage
        if any(choice.content for choice in answer.choices):
            self._content_s.append(at_s)

    def _fail(self, error: str, detail: str) -> None:
        self.error = error
        self.detail = shorten(detail)


def read_whole(body: bytes) -> tuple[Answer | None, str | None, str]:
    """Return the answer in *body*, which was not streamed, then error and detail if it is none."""
    try:
        answer = read_answer(body)
    except RequestInvalid as error:
        return None, Fault.MALFORMED, shorten(str(error))
    if answer.error is not None:
        return answer, Fault.ERROR_EVENT, shorten(answer.error.message)
    if not any(choice.content for choice in answer.choices):
        return answer, Fault.EMPTY, "the answer carried no text"
    return answer, None, ""


def refusal(status: int, body: bytes) -> tuple[str, str]:
    """Return error and detail for an answer with an error *status*."""
    try:
        answer = read_answer(body)
    except RequestInvalid:
        return f"http {status}", shorten(body.decode("utf-8", "replace"))
    return f"http {status}", shorten(answer.error.message if answer.error else "")


def shorten(text: str) -> str:
    """Return *text* on one line, cut to what a table has room for."""
    line = " ".join(text.split())
    return line if len(line) <= DETAIL_CHARS else line[: DETAIL_CHARS - 1] + "…"
