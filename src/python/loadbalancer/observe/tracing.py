"""A request -> an OpenTelemetry span, sent by a thread for which serving never waits.

The only module that needs `servekit[otel]`: it is imported where spans are asked for.
A span holds no header, no key and no prompt.
"""

import logging
import threading

import structlog
from opentelemetry import trace  # pants: no-infer-dep
from opentelemetry.exporter.otlp.proto.http import trace_exporter  # pants: no-infer-dep
from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # pants: no-infer-dep
from opentelemetry.sdk.trace import TracerProvider, export  # pants: no-infer-dep
from opentelemetry.trace.propagation import tracecontext  # pants: no-infer-dep
from opentelemetry.util.types import AttributeValue  # pants: no-infer-dep

from servekit.relay.heads import HttpRequestHead, with_lines
from servekit.routing.decision import Decision
from servekit.wire import routes

# How long a process that is asked to stop waits for a collector that does not answer.
CLOSE_S = 5.0

# What clients send most, as https://opentelemetry.io/docs/specs/semconv/gen-ai calls it.  A path
# that is not here is named in an attribute alone: names of spans must be few.
_OPERATIONS = {
    routes.CHAT: "chat",
    routes.COMPLETIONS: "text_completion",
    routes.EMBEDDINGS: "embeddings",
}

_CONTEXT = frozenset([b"traceparent", b"tracestate"])
_PROPAGATOR = tracecontext.TraceContextTextMapPropagator()

log = structlog.get_logger()


class Traced:
    """One request and its span.

    Attributes:
        head: as the engine gets it, below our span.
    """

    __slots__ = ("_epoch_s", "_span", "head")

    def __init__(self, span: trace.Span, head: HttpRequestHead, epoch_s: float) -> None:
        self.head = head
        self._span = span
        self._epoch_s = epoch_s

    def end(
        self,
        ended_s: float,
        *,
        status: int | None,
        error: str | None = None,
        client_gone: bool = False,
        model: str | None = None,
        decision: Decision | None = None,
        attempts: int | None = None,
        queue_s: float | None = None,
        ttft_s: float | None = None,
    ) -> None:
        """Have the span sent; None is what is not known, or was not.

        *error* is the kind of failure, if it was one; *status* what the client was answered, or
        would have been were it not gone.
        """
        if error is None and status is not None and status >= 500:
            error = str(status)
        known: dict[str, AttributeValue | None] = {
            "http.response.status_code": status,
            "error.type": error,
            "gen_ai.request.model": model,
            "servekit.client_gone": client_gone or None,
            "servekit.policy": None if decision is None else decision.policy,
            "servekit.replica": None if decision is None else decision.replica,
            "servekit.attempts": attempts,
            "servekit.queue_s": queue_s,
            "servekit.ttft_s": ttft_s,
        }
        span = self._span
        span.set_attributes({name: value for name, value in known.items() if value is not None})
        # A client's own mistake is no failure of a server.
        if error is not None and not 400 <= (status or 500) < 500:
            span.set_status(trace.StatusCode.ERROR)
        span.end(_ns(self._epoch_s + ended_s))


class Tracing:
    """Makes spans, and has them sent to a collector."""

    def __init__(self, collector: str, listens: tuple[str, int], epoch_s: float) -> None:
        """*collector* takes OTLP over HTTP; *listens* is our own address and port; *epoch_s* is
        what the clock's zero is in Unix time."""
        own = Resource.create({"service.name": "servekit-loadbalancer"})
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win.
        resource = own.merge(OTELResourceDetector().detect())
        # Closed by us: its own way, at exit, takes as long as the collector does.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        processor = export.BatchSpanProcessor(trace_exporter.OTLPSpanExporter(collector))
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("servekit.loadbalancer")
        self._about: dict[str, AttributeValue] = {
            "http.request.method": "POST",
            "url.scheme": "http",
            "server.address": listens[0],
            "server.port": listens[1],
        }
        self._epoch_s = epoch_s

    def begin(self, head: HttpRequestHead, begun_s: float) -> Traced:
        """Return the request in *head*, which came at *begun_s*, below the span that sent it."""
        above = _PROPAGATOR.extract(
            {
                name.decode(): head.fields[name].decode("latin-1")
                for name in _CONTEXT
                if name in head.fields
            }
        )
        path = head.path.decode("latin-1")
        attributes = {**self._about, "url.path": path}
        operation = _OPERATIONS.get(path)
        if operation is not None:
            attributes["gen_ai.operation.name"] = operation
        span = self._tracer.start_span(
            f"POST {path}" if operation else "POST /v1/*",
            above,
            trace.SpanKind.SERVER,
            attributes,
            start_time=_ns(self._epoch_s + begun_s),
        )
        context: dict[str, str] = {}
        _PROPAGATOR.inject(context, trace.set_span_in_context(span, above))
        lines = "".join(f"{name}: {value}\r\n" for name, value in context.items()).encode("latin-1")
        return Traced(span, with_lines(head, lines, instead_of=_CONTEXT), self._epoch_s)

    def close(self, limit_s: float = CLOSE_S) -> None:
        """Send what is left, for *limit_s* at most."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(limit_s)
        if closing.is_alive():
            log.warning("spans lost: the collector did not answer in time", waited_s=limit_s)


class SdkLogs(logging.Handler):
    """What the SDK logs, as events of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        log.log(record.levelno, "opentelemetry", said=record.getMessage())


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
