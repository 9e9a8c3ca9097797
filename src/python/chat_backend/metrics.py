"""Prometheus metrics of the chat backend.  Pure: counts in memory."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from servekit.wire.openai import Usage

# From a refusal to an answer of 2000 tokens on a busy T4.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ChatMetrics:
    """Metrics in a separate registry, so that two backends in one process do not mix."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "http_requests_total",
            "HTTP requests, by method, route and status (499: the client left).",
            ["method", "endpoint", "status"],
            registry=self._registry,
        )
        self._duration = Histogram(
            "http_request_duration_seconds",
            "HTTP request duration in seconds, until the end of the response.",
            ["method", "endpoint"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._chats = Counter(
            "llama_chat_requests_total",
            "Chat requests by outcome: success, stopped by the client, or an error code.",
            ["status"],
            registry=self._registry,
        )
        self._tokens = Counter(
            "llama_tokens_generated_total",
            "Completion tokens, as reported by the engine.",
            registry=self._registry,
        )
        self._prompt_tokens = Counter(
            "llama_tokens_prompt_total",
            "Prompt tokens, as reported by the engine.",
            registry=self._registry,
        )
        self._chat_duration = Histogram(
            "llama_chat_duration_seconds",
            "Chat request duration in seconds, until the last token.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._first_token = Histogram(
            "llama_chat_time_to_first_token_seconds",
            "Time to first token of streamed chat requests in seconds.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._streams = Gauge(
            "llama_chat_streams",
            "Streamed answers in progress.",
            registry=self._registry,
        )

    def answered(self, method: str, endpoint: str, status: int, seconds: float) -> None:
        self._requests.labels(method, endpoint, str(status)).inc()
        self._duration.labels(method, endpoint).observe(seconds)

    def chat_ended(self, status: str, seconds: float, usage: Usage | None = None) -> None:
        """Count a turn.  *status* is "success", "stopped" or the code of an error."""
        self._chats.labels(status).inc()
        self._chat_duration.observe(seconds)
        if usage:
            self._tokens.inc(usage.completion_tokens)
            self._prompt_tokens.inc(usage.prompt_tokens)

    def first_token(self, seconds: float) -> None:
        self._first_token.observe(seconds)

    def stream_began(self) -> None:
        self._streams.inc()

    def stream_ended(self) -> None:
        self._streams.dec()

    def exposition(self) -> bytes:
        return generate_latest(self._registry)
