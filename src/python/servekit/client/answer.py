"""One answer over HTTP, streamed or whole -> its outcome.  Pure: the connection fills it.

What an upstream says and what it does are two things: a stream may be called JSON, JSON may come
where a stream was asked for, and either may be compressed.  Each is read, under its own name.
"""

import zlib
from dataclasses import replace

from servekit.client.connection import Exchange
from servekit.client.outcome import Fault, Notice, Outcome
from servekit.client.reading import StreamReading, read_whole, refusal, shorten

# Our load balancers name the replica that served a request in this header.
SERVED_BY = b"x-servekit-replica"

# Decoding is put off until this many pieces have come: when many streams answer at once, each
# stamp waits for the others' stamps only, not for their JSON.  32 pieces take about 0.1 ms.
_PIECES_HELD = 32

# A body that is closed this long after the last token, in seconds, is held open: usage and [DONE]
# follow a token at once, and a last token without text within one step of the engine.
LINGERING_S = 0.25

_STREAM_TYPE = b"text/event-stream"
_STREAM_BEGINS = (b"data:", b"event:", b"error:", b"id:", b"retry:", b":")
_STREAM_ENDS = (b"[DONE]\n\n", b"[DONE]\r\n\r\n")

# zlib finds out by itself which of its two framings it is given.
_ANY_FRAMING = zlib.MAX_WBITS | 32
_READABLE = (b"gzip", b"x-gzip", b"deflate")
_PLAIN = (b"", b"identity")


class AnswerReading:
    """The body of one answer: pieces are kept as they come and decoded a few at a time."""

    def __init__(self, stream: bool, *, keep_text: bool = False) -> None:
        self.exchange = Exchange(self._take)
        self._stream = stream
        self._pieces: list[tuple[bytes, float]] = []
        self._keep_text = keep_text
        self._read = StreamReading(keep_text=keep_text)
        self._unpacking: zlib._Decompress | None = None

    def outcome(self, sent_s: float, wrote_s: float | None) -> Outcome:
        """Return what became of the request, whose exchange has ended."""
        exchange = self.exchange
        whole = Outcome(
            sent_s=sent_s,
            end_s=exchange.end_s,
            wrote_s=wrote_s,
            error=exchange.fault,
            detail=shorten(exchange.detail),
            served_by=exchange.headers.get(SERVED_BY, b"").decode("latin-1"),
        )
        found = self._interpret(whole)
        if found.ok and self._encoding() not in _PLAIN:
            found = replace(found, notices=(*found.notices, Notice.COMPRESSED))
        return found

    def _take(self, piece: bytes, at_s: float) -> bool:
        """Keep *piece*; return whether it ends a stream."""
        self._pieces.append((piece, at_s))
        if not self._stream or not self._is_called_stream():
            return False
        is_end = piece.endswith(_STREAM_ENDS)
        if is_end or len(self._pieces) > _PIECES_HELD:
            self._decode()
        return is_end and self._read.is_done

    def _interpret(self, whole: Outcome) -> Outcome:
        encoding = self._encoding()
        if encoding not in (*_PLAIN, *_READABLE):
            named = encoding.decode("latin-1")
            detail = f"content-encoding {named}; no encoding was asked for"
            return replace(whole, error=Fault.ENCODING, detail=detail)
        if self._is_called_stream():
            return self._streamed(whole)
        return self._unstreamed(whole)

    def _unstreamed(self, whole: Outcome) -> Outcome:
        """Read a body that is not called an event stream."""
        exchange = self.exchange
        try:
            body = b"".join(self._unpacked(piece) for piece, _ in self._pieces)
        except zlib.error as error:
            return replace(whole, error=Fault.ENCODING, detail=shorten(str(error)))
        if exchange.fault is None and not 200 <= exchange.status < 300:
            location = exchange.headers.get(b"location", b"").decode("latin-1")
            name, words = refusal(exchange.status, body, location)
            return replace(whole, error=name, detail=words)
        if exchange.status and body.lstrip().startswith(_STREAM_BEGINS):
            self._unpacking = None
            found = self._streamed(whole)
            return replace(found, notices=(*found.notices, Notice.CONTENT_TYPE) if found.ok else ())
        if exchange.fault is not None:
            return whole
        return self._whole(whole, body)

    def _whole(self, whole: Outcome, body: bytes) -> Outcome:
        answer = read_whole(body)
        error, detail = answer.error, answer.detail
        if self._stream and error in (Fault.MALFORMED, Fault.EMPTY):
            kind = self.exchange.headers.get(b"content-type", b"no content type").decode("latin-1")
            said = body[:400].decode("utf-8", "replace")
            error, detail = Fault.MALFORMED, shorten(f"not an event stream ({kind}): {said}")
        return replace(
            whole,
            error=error,
            detail=detail,
            finish=answer.finish,
            notices=(Notice.NOT_STREAMED,) if self._stream and error is None else (),
            prompt_tokens=answer.counts.prompt,
            completion_tokens=answer.counts.completion,
            text=answer.text if self._keep_text else "",
        )

    def _streamed(self, whole: Outcome) -> Outcome:
        self._decode()
        broken = None if whole.error is None else (whole.error, whole.detail)
        read = self._read.finish(broken)
        notices = list(read.notices)
        if read.error is None and read.content_s[-1] + LINGERING_S < whole.end_s:
            notices.append(Notice.LINGERING)
        if read.error is None and not self._stream:
            notices.append(Notice.STREAMED)
        return replace(
            whole,
            content_s=read.content_s,
            answer_s=read.answer_s,
            error=read.error,
            detail=read.detail,
            finish=read.finish,
            notices=tuple(notices),
            prompt_tokens=read.prompt_tokens,
            completion_tokens=read.completion_tokens,
            hidden_tokens=read.hidden_tokens,
            first_tokens=read.first_tokens,
            text=read.text,
        )

    def _decode(self) -> None:
        for piece, at_s in self._pieces:
            try:
                self._read.read(self._unpacked(piece), at_s)
            except zlib.error as error:
                self._read.fail(Fault.ENCODING, str(error))
        self._pieces.clear()

    def _unpacked(self, piece: bytes) -> bytes:
        if self._encoding() in _PLAIN:
            return piece
        if self._unpacking is None:
            self._unpacking = zlib.decompressobj(_ANY_FRAMING)
        return self._unpacking.decompress(piece)

    def _is_called_stream(self) -> bool:
        kind = self.exchange.headers.get(b"content-type", b"").strip().lower()
        return 200 <= self.exchange.status < 300 and kind.startswith(_STREAM_TYPE)

    def _encoding(self) -> bytes:
        return self.exchange.headers.get(b"content-encoding", b"").strip().lower()
