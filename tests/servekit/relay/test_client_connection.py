"""What a front does as time passes, and whom it blames; the clock and the transport are fake."""

import asyncio
from dataclasses import dataclass, field

from servekit.relay.client_connection import (
    LINGER_AT_MOST_S,
    LINGER_S,
    ClientConnection,
    ClientSet,
    ConnectionLimits,
    RelayedRequest,
    Responder,
)
from servekit.relay.heads import HttpRequestHead
from servekit.relay.responses import LocalResponse, refuse
from tests.support.clock import FakeClock

POST = b"POST /v1/x HTTP/1.1\r\nHost: e\r\nContent-Length: 2\r\n\r\n{}"


class Wire(asyncio.Transport):
    """Keeps what is written, and how the connection ended."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.ended = ""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "aborted"


@dataclass
class Waiting:
    """An exchange of which nothing is heard."""

    chunks_received: int = 0
    keep_alive: bool = True
    bodiless: bool = False
    happened: list[str] = field(default_factory=list)

    def start(self) -> None:
        self.happened.append("started")

    def abandon(self) -> None:
        self.happened.append("abandoned")

    def time_out(self) -> None:
        self.happened.append("timed out")

    def client_sent(self, data: bytes) -> bool:
        del data
        return False

    def pause(self) -> None:
        self.happened.append("paused")

    def resume(self) -> None:
        self.happened.append("resumed")


@dataclass
class House:
    """Lets everybody in, but for what is refused."""

    clock: FakeClock
    refused: LocalResponse | None = None
    limits: ConnectionLimits = field(
        default_factory=lambda: ConnectionLimits(idle_timeout_s=75.0, answer_timeout_s=300.0)
    )
    draining: bool = False
    exchange: Waiting = field(default_factory=Waiting)

    def now(self) -> float:
        return self.clock.now()

    def refusal_for(self, head: HttpRequestHead | None, answer: LocalResponse) -> LocalResponse:
        del head
        return answer

    def admit(self, head: HttpRequestHead) -> LocalResponse | None:
        del head
        return self.refused

    def serve(self, client: Responder, head: HttpRequestHead, body: bytes) -> RelayedRequest:
        del client, head, body
        return self.exchange


def visited(refused: LocalResponse | None = None) -> tuple[ClientConnection, Wire, House]:
    """Return a front that somebody has connected to."""
    house = House(FakeClock(), refused)
    client, wire = ClientConnection(house, ClientSet()), Wire()
    client.connection_made(wire)
    return client, wire, house


def test_client_that_reads_no_more_is_not_the_engines_fault() -> None:
    """We stop reading for its sake; that silence is its own."""
    client, wire, house = visited()
    client.data_received(POST)
    client.pause_writing()

    house.clock.advance(301.0)
    client.check(house.now())

    assert wire.ended == "aborted"
    assert house.exchange.happened == ["started", "paused"]


def test_client_that_reads_again_is_waited_for() -> None:
    """From then on it is the engine that is silent."""
    client, wire, house = visited()
    client.data_received(POST)
    client.pause_writing()
    client.resume_writing()

    house.clock.advance(301.0)
    client.check(house.now())

    assert wire.ended == ""
    assert house.exchange.happened == ["started", "paused", "resumed", "timed out"]


def test_end_of_an_answer_that_nobody_reads_is_not_kept_for_ever() -> None:
    """Closing would wait until it is read."""
    client, wire, house = visited()
    client.data_received(POST)
    client.pause_writing()
    client.relayed(keep_alive=True)

    house.clock.advance(76.0)
    client.check(house.now())

    assert wire.ended == "aborted"


def test_refused_client_is_listened_to_until_it_is_done() -> None:
    """Whoever sends a large body reads the answer after it; a reset would lose it."""
    client, wire, house = visited(refuse(413, "too large"))
    client.data_received(POST)
    for _ in range(10):
        house.clock.advance(0.9 * LINGER_S)
        client.data_received(b"x" * 1000)
        client.check(house.now())
    assert wire.ended == ""

    house.clock.advance(1.1 * LINGER_S)
    client.check(house.now())

    assert wire.ended == "aborted"
    assert wire.written.count(b"HTTP/1.1") == 1


def test_refused_client_that_does_not_stop_is_left() -> None:
    """A body without an end is not read without an end."""
    client, wire, house = visited(refuse(413, "too large"))
    client.data_received(POST)
    while house.now() <= LINGER_AT_MOST_S:
        assert wire.ended == ""
        house.clock.advance(0.9 * LINGER_S)
        client.data_received(b"x" * 1000)
        client.check(house.now())

    assert wire.ended == "aborted"


def test_refusal_of_a_head_request_has_no_body() -> None:
    """Its length is told, and the body does not come."""
    client, wire, _ = visited(refuse(405, "no"))

    client.data_received(b"HEAD /v1/x HTTP/1.1\r\nHost: e\r\n\r\n")

    assert b"content-length: " in wire.written
    assert wire.written.endswith(b"\r\n\r\n")


def test_only_who_knows_of_it_is_told_to_continue() -> None:
    """HTTP/1.0 has no 100, and would take it for the answer."""
    for version, told in ((b"1.1", b"HTTP/1.1 100 Continue\r\n\r\n"), (b"1.0", b"")):
        client, wire, _ = visited()
        client.data_received(
            b"POST /v1/x HTTP/%b\r\nHost: e\r\nExpect: 100-continue\r\n"
            b"Content-Length: 2\r\n\r\n" % version
        )
        assert wire.written == told


def test_silence_of_an_engine_begins_when_it_has_the_request() -> None:
    """Not while the request waited for room, or was tried elsewhere."""
    client, _, house = visited()
    client.data_received(POST)
    house.clock.advance(299.0)
    client.wait_anew()

    house.clock.advance(299.0)
    client.check(house.now())
    assert house.exchange.happened == ["started"]

    house.clock.advance(2.0)
    client.check(house.now())
    assert house.exchange.happened == ["started", "timed out"]
