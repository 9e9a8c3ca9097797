"""Where the body of a message ends, found without copying it.  Pure."""

import re

from servekit.errors.tree import RequestInvalid, RequestTooLarge, StreamCut

_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")
# Sizes of the chunks that hold an event: few enough to be remembered.
_PLAIN_SIZE = re.compile(rb"[0-9a-f]{1,3}|[0-9A-F]{1,3}")
_TRAILERS = re.compile(rb"(?:[^\r\n]+\r\n)*\r\n")


class _Sizes(dict[bytes, int]):
    """Sizes of chunks as they are written -> numbers; -1 for what needs a closer look."""

    def __missing__(self, written: bytes) -> int:
        if _PLAIN_SIZE.fullmatch(written) is None:
            return -1
        size = self[written] = int(written, 16)
        return size


_sizes = _Sizes()

# A chunk's size with its extensions, or all trailers, are a line or two.
_MAX_LINE = 4096


class LengthFraming:
    """A body whose length was announced."""

    __slots__ = ("_left", "done")
    unfinished = 0

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0

    def feed(self, data: bytes) -> int:
        """Return how many bytes of *data* belong to the body."""
        taken = min(self._left, len(data))
        self._left -= taken
        self.done = self._left == 0
        return taken


class OpenFraming:
    """A body that ends with the connection."""

    __slots__ = ("done",)
    unfinished = 0

    def __init__(self) -> None:
        self.done = False

    def feed(self, data: bytes) -> int:
        return len(data)


class ChunkedFraming:
    """A chunked body (RFC 9112, section 7.1).

    Attributes:
        unfinished: how many of the bytes taken last belong to a chunk that has not ended.
    """

    __slots__ = ("_line", "_skip", "_trailing", "done", "unfinished")

    def __init__(self) -> None:
        self.done = False
        self._skip = 0  # bytes of the current chunk, its line end included, still to come
        self._line = b""  # a size line, or trailers, of which the end is still to come
        self.unfinished = 0
        self._trailing = False

    def feed(self, data: bytes) -> int:
        """Return how many bytes of *data* belong to the body.

        Raises:
            StreamCut: a size is not a number.
        """
        size = len(data)
        if not (self.unfinished or self._trailing):
            # One whole chunk is what an engine sends nearly always.
            end = data.find(b"\r\n", 0, 5)
            if end > 0 and _sizes[data[:end]] == size - end - 4 > 0:
                return size
        if self._skip > size:
            self._skip -= size
            self.unfinished += size
            return size
        position, self._skip = self._skip, 0
        held = len(self._line)
        if held:
            data, self._line = self._line + data, b""
            size += held
        while position < size or self._trailing:
            if self._trailing:
                return self._end(data, position) - held
            match = _SIZE.match(data, position)
            if match is None:
                self._hold(data, position)
                return size - held
            length = int(match[1], 16)
            if length == 0:
                self._trailing = True
                position = match.end()
                continue
            start, position = position, match.end() + length + 2
            if position > size:
                self._skip, self.unfinished = position - size, size - start
                return size - held
        self.unfinished = 0
        return size - held

    def _end(self, data: bytes, position: int) -> int:
        match = _TRAILERS.match(data, position)
        if match is None:
            self._hold(data, position, size_line=False)
            return len(data)
        self.done = True
        self.unfinished = 0
        return match.end()

    def _hold(self, data: bytes, position: int, *, size_line: bool = True) -> None:
        self._line = data[position:]
        self.unfinished = len(self._line)
        if len(self._line) > _MAX_LINE or (size_line and b"\n" in self._line):
            raise StreamCut("the answer's chunks are malformed")


class ChunkedBody:
    """A chunked request body, decoded strictly as it comes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: list[bytes] = []
        self._missing = 0  # bytes that must come before it is worth looking again
        # One piece of memory: as objects of their own, chunks of two bytes take 28 times as much.
        self._decoded = bytearray()
        self._total = 0
        self.done = False

    def take(self) -> bytes:
        """Return what was decoded since the last time."""
        taken = bytes(self._decoded)
        self._decoded.clear()
        return taken

    def feed(self, data: bytes) -> bytes:
        """Take *data*; return what follows the body, once that is done.

        Raises:
            RequestInvalid: it is not chunked encoding.
            RequestTooLarge: the body is larger than the limit.
        """
        self._held.append(data)
        self._missing -= len(data)
        if self._missing > 0:
            return b""
        buffer, self._held = b"".join(self._held), []
        position = 0
        while (match := _SIZE.match(buffer, position)) is not None:
            length = int(match[1], 16)
            if length == 0:
                return self._end(buffer, position, match.end())
            if self._total + length > self._limit:
                raise RequestTooLarge(f"the body is larger than {self._limit} bytes")
            end = match.end() + length
            if len(buffer) < end + 2:
                self._missing = end + 2 - len(buffer)
                break
            if buffer[end : end + 2] != b"\r\n":
                raise RequestInvalid("a chunk is longer than its size")
            self._decoded += buffer[match.end() : end]
            self._total += length
            position = end + 2
        rest = buffer[position:]
        if match is None and (b"\n" in rest or len(rest) > _MAX_LINE):
            raise RequestInvalid("a chunk has no size")
        self._held.append(rest)
        return b""

    def _end(self, buffer: bytes, position: int, trailers: int) -> bytes:
        match = _TRAILERS.match(buffer, trailers)
        if match is None:
            self._held.append(buffer[position:])
            if len(buffer) - trailers > _MAX_LINE:
                raise RequestInvalid("the trailers are too long")
            return b""
        self.done = True
        return buffer[match.end() :]


Framing = LengthFraming | ChunkedFraming | OpenFraming
