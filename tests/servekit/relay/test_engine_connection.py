"""One connection to an engine, without the network."""

import asyncio

from servekit.relay.engine_connection import EngineConnection
from servekit.relay.framing import Framing
from servekit.relay.heads import HttpResponseHead


class Wire(asyncio.Transport):
    """Says whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class SlowSink:
    """Stops reading at the first piece, as a client does that does not keep up."""

    def __init__(self, connection: EngineConnection) -> None:
        self._connection = connection

    def started(self, head: HttpResponseHead, piece: bytes, framing: Framing) -> None:
        del head, piece, framing
        self._connection.pause()

    def more(self, piece: bytes, framing: Framing) -> None:
        pass

    def ended(self) -> None:
        pass

    def broke(self, error: Exception) -> None:
        raise error


def test_connection_that_was_paused_is_read_again_once_it_is_idle() -> None:
    """Whoever uses it next must not wait for a slow client of the answer before."""
    idle: list[EngineConnection] = []
    connection = EngineConnection(idle.append)
    wire = Wire()
    connection.connection_made(wire)
    connection.send(b"GET / HTTP/1.1\r\n\r\n", b"", SlowSink(connection))

    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
    paused = not wire.reading
    connection.data_received(b"cd")

    assert paused
    assert idle == [connection]
    assert wire.reading
