"""Server-sent events from bytes, however the bytes were cut.  Pure.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.6.
"""

from dataclasses import dataclass

from servekit.errors.tree import StreamCut

# vLLM's largest events are logprobs of a few hundred KiB; beyond this it is not an event stream.
MAX_EVENT_BYTES = 8 * 1024 * 1024

DONE = b"[DONE]"

# The kind of an event in which a server says that it failed.
ERROR = "error"


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event.  *data* is its data lines, joined by newlines."""

    data: bytes
    kind: str = "message"


class SseDecoder:
    """Turn a byte stream into events: `feed()` each piece as it arrives.

    The events do not depend on where the stream was cut.  Comments, `id` and `retry` are skipped,
    and so is an event that never ended, as the specification asks.

    Two things that the specification ignores are events of kind ERROR here, since servers report
    failures so: a line `error: …` (llama.cpp) and a bare JSON object (a handler that raised after
    the headers were sent).
    """

    def __init__(self) -> None:
        self._rest = b""
        self._started = False

    def feed(self, piece: bytes) -> list[SseEvent]:
        """Return the events that *piece* completes.

        Raises:
            StreamCut: an event grew beyond MAX_EVENT_BYTES.
        """
        buffer = self._rest + piece
        if not self._started:
            if len(buffer) < 3 and b"\xef\xbb\xbf".startswith(buffer):
                self._rest = buffer
                return []
            buffer = buffer.removeprefix(b"\xef\xbb\xbf")
            self._started = True
        held = b""
        if b"\r" in buffer:
            # A carriage return at the end may be the first half of a CRLF.
            if buffer.endswith(b"\r"):
                buffer, held = buffer[:-1], b"\r"
            buffer = buffer.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *blocks, rest = buffer.split(b"\n\n")
        self._rest = rest + held
        if len(self._rest) > MAX_EVENT_BYTES:
            raise StreamCut(
                f"an event is larger than {MAX_EVENT_BYTES} bytes; this is not an event stream"
            )
        return [event for block in blocks if (event := _event(block)) is not None]

    @property
    def unfinished(self) -> bool:
        """Whether bytes of an event that has not ended are held."""
        return bool(self._rest.strip())

    def flush(self) -> list[SseEvent]:
        """Return the event that the end of the body completes, if one was held: many servers and
        clients leave out the last empty line."""
        return self.feed(b"\n\n") if self.unfinished else []


def encode(data: bytes) -> bytes:
    """Return *data*, which holds no newline, as one event."""
    return b"data: " + data + b"\n\n"


def _event(block: bytes) -> SseEvent | None:
    if block.startswith(b"data: ") and b"\n" not in block:
        return SseEvent(block[6:])
    data: list[bytes] = []
    kind = "message"
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            kind = value.decode("utf-8", "replace") or "message"
        elif field == b"error":
            return SseEvent(value, ERROR)
    if not data and block.lstrip().startswith(b"{"):
        return SseEvent(block.strip(), ERROR)
    return SseEvent(b"\n".join(data), kind) if data else None
