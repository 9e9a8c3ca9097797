"""The client against an upstream that misbehaves on a real socket."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from servekit.client.client import Client
from servekit.client.outcome import Fault, Outcome
from servekit.timing.clock import SystemClock
from servekit.wire.openai import ChatRequest, CompletionRequest, Message

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
TOKEN = b'data: {"choices":[{"index":0,"text":"a"}]}\n\n'
ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"
REQUEST = CompletionRequest(model="m", prompt=[1, 2, 3], max_tokens=2, stream=True)

Script = Callable[[asyncio.StreamWriter], Awaitable[None]]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def says(*pieces: bytes, pause_s: float = 0.0) -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return script


def says_then_closes(*pieces: bytes) -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        await says(*pieces)(writer)
        writer.close()

    return script


def says_then_resets(*pieces: bytes) -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        await says(*pieces, pause_s=0.01)(writer)
        writer.transport.abort()

    return script


async def says_nothing(writer: asyncio.StreamWriter) -> None:
    await writer.drain()


@asynccontextmanager
async def upstream(script: Script) -> AsyncIterator[tuple[str, list[bytes]]]:
    """An upstream that plays *script* to every request; gives its URL and the requests it got."""
    requests: list[bytes] = []
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(
                (int(line[15:]) for line in head.split(b"\r\n") if b"Content-Length" in line), 0
            )
            requests.append(head + await reader.readexactly(length))
            await script(writer)

    async def serve_until_left(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve_until_left, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", requests
    finally:
        server.close()
        for writer in writers:
            writer.close()


async def outcome_of(script: Script, *, timeout_s: float = 5.0) -> Outcome:
    async with upstream(script) as (url, _):
        client = Client(url, SystemClock(), timeout_s=timeout_s)
        outcome = await client.complete(REQUEST)
        await client.aclose()
    return outcome


async def test_times_of_a_stream_are_ordered_and_tokens_come_from_usage() -> None:
    """Sent, first text, every text and the end are in order; the counts are the upstream's."""
    script = says(STREAM, *(chunk(e) for e in (TOKEN, TOKEN, USAGE, DONE)), END, pause_s=0.01)

    outcome = await outcome_of(script)

    assert outcome.ok
    assert outcome.wrote_s is not None
    assert outcome.sent_s <= outcome.wrote_s < outcome.content_s[0] < outcome.content_s[1]
    assert outcome.content_s[1] < outcome.end_s
    assert (outcome.prompt_tokens, outcome.completion_tokens) == (3, 2)
    assert outcome.event_is_token


async def test_ttft_is_the_first_event_with_text() -> None:
    """The event that only names a role is not the first token."""
    script = says(STREAM, chunk(ROLE), chunk(TOKEN + DONE), END, pause_s=0.05)

    outcome = await outcome_of(script)

    assert len(outcome.content_s) == 1
    assert outcome.content_s[0] - outcome.sent_s > 0.09


async def test_events_of_one_read_share_its_time() -> None:
    """Two events that arrive together are two events, and neither is dated later."""
    outcome = await outcome_of(says(STREAM + chunk(TOKEN + TOKEN + USAGE + DONE) + END))

    assert len(outcome.content_s) == 2
    assert outcome.content_s[0] == outcome.content_s[1]


async def test_an_event_of_several_tokens_is_not_called_a_token() -> None:
    """Where usage counts more tokens than there were events, a gap is no inter-token latency."""
    outcome = await outcome_of(says(STREAM + chunk(TOKEN + USAGE + DONE) + END))

    assert outcome.ok
    assert not outcome.event_is_token


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (says_then_closes(), Fault.RESET),
        (says_then_resets(STREAM, chunk(TOKEN)), Fault.CUT),
        (says_then_closes(STREAM + chunk(TOKEN)), Fault.CUT),
        (says(STREAM + chunk(TOKEN) + END), Fault.NO_END),
        (says(STREAM + chunk(b"data: {not json\n\n" + DONE) + END), Fault.MALFORMED),
        (says(STREAM + b"zz\r\n"), Fault.MALFORMED),
        (says(b"what is HTTP?\r\n\r\n"), Fault.MALFORMED),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), Fault.MALFORMED),
        (says(STREAM + chunk(b'data: {"error":{"message":"x"}}\n\n') + END), Fault.ERROR_EVENT),
        (says(STREAM + chunk(USAGE + DONE) + END), Fault.EMPTY),
        (says(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"), "http 503"),
    ],
)
async def test_each_fault_has_its_own_name(script: Script, error: str) -> None:
    """An upstream's fault is a name in the outcome, and never an exception."""
    assert (await outcome_of(script)).error == error


async def test_an_upstream_that_hangs_times_out() -> None:
    """A request that is not answered ends after the client's patience."""
    outcome = await outcome_of(says_nothing, timeout_s=0.05)

    assert outcome.error == Fault.TIMEOUT
    assert 0.05 <= outcome.end_s - outcome.sent_s < 1.0


async def test_nobody_listening_is_refused(unused_tcp_port: int) -> None:
    """A closed port is told from every other fault."""
    client = Client(f"http://127.0.0.1:{unused_tcp_port}", SystemClock())

    assert (await client.complete(REQUEST)).error == Fault.REFUSED


async def test_a_name_that_does_not_resolve_is_unreachable() -> None:
    """A host that cannot be found is an outcome as well."""
    client = Client("http://no-such-host.invalid", SystemClock(), timeout_s=5.0)

    assert (await client.complete(REQUEST)).error == Fault.UNREACHABLE


async def test_the_message_of_an_error_envelope_is_kept() -> None:
    """Whoever reads the report learns what the upstream said."""
    body = b'{"error":{"message":"no such model","type":"NotFoundError","code":404}}'
    head = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n" % len(body)

    outcome = await outcome_of(says(head + body))

    assert (outcome.error, outcome.detail) == ("http 404", "no such model")


async def test_an_answer_that_is_not_streamed_has_tokens_and_no_first_text() -> None:
    """TTFT is unknown, not zero, where nothing was streamed."""
    body = b'{"choices":[{"message":{"content":"hi"}}],"usage":{"completion_tokens":1}}'
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with upstream(says(head + body)) as (url, requests):
        client = Client(url, SystemClock())
        request = ChatRequest(model="m", messages=[Message("user", "hello")])
        outcome = await client.chat(request)
        await client.aclose()

    assert outcome.ok
    assert outcome.first_content_s is None
    assert outcome.completion_tokens == 1
    assert requests[0].startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")


async def test_the_replica_that_the_load_balancer_named_is_kept() -> None:
    """The per-replica view of a report needs no log of the load balancer."""
    head = STREAM.replace(b"\r\n\r\n", b"\r\nX-Servekit-Replica: llama-8b-2\r\n\r\n")

    outcome = await outcome_of(says(head + chunk(TOKEN + DONE) + END))

    assert outcome.served_by == "llama-8b-2"


async def test_a_connection_is_used_again() -> None:
    """A second request does not pay for connecting."""
    seen: set[int] = set()

    async def script(writer: asyncio.StreamWriter) -> None:
        seen.add(id(writer))
        await says(STREAM + chunk(TOKEN + DONE) + END)(writer)

    async with upstream(script) as (url, requests):
        client = Client(url, SystemClock())
        first, second = await client.complete(REQUEST), await client.complete(REQUEST)
        await client.aclose()

    assert first.ok
    assert second.ok
    assert len(requests) == 2
    assert len(seen) == 1


async def test_a_cancelled_request_closes_its_connection() -> None:
    """The upstream sees the client leave, and can stop generating."""
    asked, left = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + chunk(TOKEN))
        asked.set()
        while await reader.read(1024):
            pass
        writer.close()
        left.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", SystemClock())
        request = asyncio.create_task(client.complete(REQUEST))
        await asked.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await asyncio.wait_for(left.wait(), 5.0)
        await client.aclose()


async def test_get_returns_status_and_body() -> None:
    """What /metrics and /v1/models say is at hand without another library."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with upstream(says(head)) as (url, requests):
        client = Client(url + "/v1", SystemClock())
        status, body = await client.get("/v1/models")
        await client.aclose()

    assert (status, body) == (200, b"ok")
    assert requests[0].startswith(b"GET /v1/models HTTP/1.1\r\n")
