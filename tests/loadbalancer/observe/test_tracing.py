"""Spans, as a collector that speaks OTLP over HTTP gets them."""

import asyncio
import json
import re
import signal
from typing import Any

import pytest

from loadbalancer.observe.tracing import Tracing
from tests.loadbalancer.engine import Engine, post, request, running, serving
from tests.loadbalancer.otlp import Collector, collecting, told
from tests.loadbalancer.started import command, started

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
# The last bit of the flags says whether the span is sent.
SENT = re.compile(rb"traceparent: 00-([0-9a-f]{32})-([0-9a-f]{16})-0([0-3])\r\n")


def traceparent(flags: int = 1) -> bytes:
    return f"traceparent: 00-{TRACE}-{PARENT}-{flags:02x}\r\n".encode()


def tracing_to(collector: Collector) -> Tracing:
    return Tracing(collector.url + "/v1/traces", ("127.0.0.1", 9), 1000.0)


async def traced(
    engine: Engine, lines: bytes = b"", body: bytes = b'{"model":"m","prompt":"x"}', **rules: Any
) -> Collector:
    """Return a collector after one request to *engine* has been answered."""
    async with collecting() as collector:
        tracing = tracing_to(collector)
        async with running(engine, tracing=tracing, **rules) as (_, port):
            await post(port, body, lines)
        await asyncio.to_thread(tracing.close)
    return collector


async def test_request_is_a_span_below_its_callers() -> None:
    """The collector and the engine both see our span in the trace that came in."""
    engine = Engine()

    collector = await traced(engine, traceparent() + b"tracestate: a=b\r\n")

    (span,) = collector.spans
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert SENT.findall(engine.heads[0]) == [(TRACE.encode(), span.span_id.hex().encode(), b"1")]
    assert engine.heads[0].count(b"tracestate: a=b\r\n") == 1


async def test_span_says_what_became_of_a_request() -> None:
    """In the words of OpenTelemetry's conventions where there are any."""
    collector = await traced(Engine("stream"))

    (span,) = collector.spans
    assert (span.name, span.kind) == ("POST /v1/completions", span.SPAN_KIND_SERVER)
    assert 1000e9 < span.start_time_unix_nano < span.end_time_unix_nano
    assert span.status.code == span.status.STATUS_CODE_UNSET
    attributes = told(span)
    assert attributes.pop("servekit.queue_s") >= 0
    seconds = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
    assert 0 < attributes.pop("servekit.ttft_s") <= seconds
    assert attributes == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": "m",
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": 9,
        "servekit.attempts": 1,
        "servekit.policy": "round-robin",
        "servekit.replica": "r0",
        "url.path": "/v1/completions",
        "url.scheme": "http",
    }


async def test_no_prompt_header_or_key_is_told() -> None:
    """What a client wrote stays between it and the engine."""
    collector = await traced(
        Engine(), b"authorization: Bearer sesame\r\n", b'{"model":"m","prompt":"sesame"}'
    )

    assert len(collector.spans) == 1
    assert not any(b"sesame" in body for body in collector.bodies)


async def test_invalid_trace_begins_anew() -> None:
    """And what belonged to it goes no further."""
    engine = Engine()

    collector = await traced(engine, b"TraceParent: 00-0-0-01\r\nTraceState: a=b\r\n")

    (span,) = collector.spans
    assert span.parent_span_id == b""
    sent = SENT.findall(engine.heads[0])
    assert sent == [(span.trace_id.hex().encode(), span.span_id.hex().encode(), b"3")]
    assert b"a=b" not in engine.heads[0]


async def test_what_the_caller_does_not_sample_is_not_sent() -> None:
    """Its decision holds for the whole trace; the engine hears of it."""
    engine = Engine()

    collector = await traced(engine, traceparent(0))

    assert collector.spans == []
    ((trace, _, flags),) = SENT.findall(engine.heads[0])
    assert (trace, flags) == (TRACE.encode(), b"0")


async def test_sampler_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy fleet sends one span in a hundred; the SDK knows how to say so."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")

    assert (await traced(Engine())).spans == []


async def test_second_attempt_is_counted() -> None:
    """A request that was sent to another replica is one span, of the one that answered."""
    async with collecting() as collector:
        tracing = tracing_to(collector)
        async with running(Engine("die"), Engine(), tracing=tracing) as (_, port):
            for _ in range(2):
                await post(port)
        await asyncio.to_thread(tracing.close)

    assert sorted(told(span)["servekit.attempts"] for span in collector.spans) == [2, 2]
    assert {told(span)["servekit.replica"] for span in collector.spans} == {"r1"}


@pytest.mark.parametrize(
    ("script", "status", "error"),
    [
        ("die", 502, "StreamCut"),
        ("500", 500, "500"),
        ("die-mid-stream", 200, "StreamCut"),
    ],
)
async def test_failure_is_told(script: str, status: int, error: str) -> None:
    """With what the client was answered, and its kind."""
    collector = await traced(Engine(script))

    (span,) = collector.spans
    assert span.status.code == span.status.STATUS_CODE_ERROR
    attributes = told(span)
    assert (attributes["http.response.status_code"], attributes["error.type"]) == (status, error)


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [(b'{"model":"other"}', 404, "ModelUnknown"), (b"{", 400, "RequestInvalid")],
)
async def test_refusal_is_told_and_no_failure(body: bytes, status: int, error: str) -> None:
    """A client's own mistake does not count against the server."""
    collector = await traced(Engine(), body=body)

    (span,) = collector.spans
    assert span.status.code == span.status.STATUS_CODE_UNSET
    attributes = told(span)
    assert (attributes["http.response.status_code"], attributes["error.type"]) == (status, error)


async def test_client_that_leaves_is_told_and_no_failure() -> None:
    """People stop an answer that they have read enough of."""
    engine = Engine("endless")
    async with collecting() as collector:
        tracing = tracing_to(collector)
        async with running(engine, tracing=tracing) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request())
            await reader.readuntil(b"\n\n")
            writer.close()
            async with asyncio.timeout(30.0):
                await engine.left.wait()
        await asyncio.to_thread(tracing.close)

    (span,) = collector.spans
    assert span.status.code == span.status.STATUS_CODE_UNSET
    assert told(span)["servekit.client_gone"] is True


async def test_path_that_we_do_not_know_makes_no_new_name() -> None:
    """Names of spans are few, whatever clients send."""
    async with collecting() as collector:
        tracing = tracing_to(collector)
        async with running(Engine(), tracing=tracing) as (_, port):
            ask = request(lines=b"connection: close\r\n").replace(b"/v1/completions", b"/v1/score")
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(ask)
            await reader.read()
            writer.close()
        await asyncio.to_thread(tracing.close)

    (span,) = collector.spans
    assert (span.name, told(span)["url.path"]) == ("POST /v1/*", "/v1/score")


async def test_collector_that_is_gone_is_no_harm() -> None:
    """Requests are answered where nobody takes their spans, and stopping has an end."""
    async with collecting() as collector:
        pass
    tracing = tracing_to(collector)
    async with running(Engine(), tracing=tracing) as (_, port):
        answers = [await post(port) for _ in range(20)]
    await asyncio.to_thread(tracing.close, 0.1)

    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)


async def test_full_queue_drops_spans_and_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector that hangs costs memory for so many spans and no more."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    async with collecting("hang") as collector:
        tracing = tracing_to(collector)
        async with running(Engine(), tracing=tracing) as (_, port):
            answers = [await post(port) for _ in range(20)]
            async with asyncio.timeout(30.0):
                await collector.chunks_received.wait()
        await asyncio.to_thread(tracing.close, 0.1)

    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    assert len(collector.spans) == 1


async def test_program_sends_its_spans_before_it_ends() -> None:
    """A drain takes them along, each worker's; the environment alone turns them on."""
    engine = Engine()
    async with serving(engine) as (url,), collecting() as collector:
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_EXPORTER_OTLP_HEADERS": "x-key=sesame",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test",
            # Longer than this test: what comes, comes because the program ends.
            "OTEL_BSP_SCHEDULE_DELAY": "600000",
        }
        async with started("--endpoints", url, "--workers", "2", environ=environ) as balancer:
            for _ in range(20):
                await post(balancer.port)

    assert balancer.process.returncode == 0
    assert len(collector.spans) == 20
    assert {span.trace_id for span in collector.spans} == {
        bytes.fromhex(SENT.findall(head)[0][0].decode()) for head in engine.heads
    }
    assert {head.split()[1] for head in collector.heads} == {b"/v1/traces"}
    assert all(b"x-key: sesame" in head for head in collector.heads)
    for resource in collector.resources:
        assert resource["service.name"] == "servekit-loadbalancer"
        assert resource["deployment.environment"] == "test"


async def test_program_ends_where_the_collector_does_not_answer() -> None:
    """Serving ends when it is asked to; spans are not worth more than that."""
    async with collecting("hang") as collector:
        process = await asyncio.create_subprocess_exec(
            *command("--endpoints", "http://127.0.0.1:9", "--otlp-endpoint", collector.url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        ready = json.loads(await asyncio.wait_for(process.stdout.readline(), 60.0))
        await post(int(ready["url"].rpartition(":")[2]))
        process.send_signal(signal.SIGTERM)
        _, said = await asyncio.wait_for(process.communicate(), 60.0)

    assert process.returncode == 0
    events = [json.loads(line) for line in said.splitlines()]
    assert any(event["event"].startswith("spans lost") for event in events)


async def test_extra_is_named_where_it_is_missing() -> None:
    """A usage error, not a traceback."""
    arguments = command("--endpoints", "http://127.0.0.1:9", "--otlp-endpoint", "http://c:4318")
    hidden = "import sys; sys.modules['opentelemetry'] = None\n"
    process = await asyncio.create_subprocess_exec(
        *[hidden + argument if "runpy" in argument else argument for argument in arguments],
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(process.communicate(), 60.0)

    assert process.returncode == 2
    assert b"install servekit[otel]" in said
    assert b"Traceback" not in said
