"""Command line and environment -> what a load balancer is to do.  Pure."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec
from typer import Option

from loadbalancer.balancing.balancer import Rules
from loadbalancer.balancing.session_sources import USUAL, read_sources
from loadbalancer.membership.dns_source import DnsSource, read_source
from loadbalancer.observe.otlp_settings import OtelSettings, collector_url
from loadbalancer.server.cors import read_origins
from servekit.errors.tree import SettingInvalid
from servekit.relay.tls import ServerTlsFiles
from servekit.routing.registry import POLICY_NAMES
from servekit.secrets.secret import Secret
from servekit.settings.environment import Settings, read_settings
from servekit.wire.address import read_address

DEFAULT_FLEET = "h100"
_MIB = 1024 * 1024
# What comes before `=` is a name where the rest is a URL.
_NAMED_URL = re.compile(r"([\w.-]+)=(https?://.+)")
_PATH = re.compile(r"(?:/[\w-]+)+")


class BalancerSettings(Settings, frozen=True, kw_only=True):
    """What the environment may set; an option on the command line wins."""

    vllm_endpoints: tuple[str, ...] = ()
    metrics_poll_interval: float = 0.2
    log_level: str = "info"
    vllm_api_key: Secret = Secret()


@dataclass(frozen=True, slots=True)
class ReplicaOptions:
    """Where the replicas are."""

    HEADING: ClassVar[str] = "Replicas (one of)"

    fleet: Annotated[
        str | None, Option(help="Built-in fleet name, or path of a fleet file.  [default: h100]")
    ] = None
    endpoints: Annotated[
        str | None,
        Option(help="Comma-separated URLs, or NAME=URL; models are read from /v1/models."),
    ] = None
    discover: Annotated[
        str | None, Option(help="DNS name to resolve: dns://NAME:PORT or srv://NAME.")
    ] = None
    upstream_ca: Annotated[
        str | None,
        Option(
            help="CA file (PEM) for https:// replicas, instead of the system's CAs; "
            "HOST:PORT=FILE for one replica. Comma-separated."
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class RoutingOptions:
    """How a replica is chosen.  Each program has a default policy."""

    HEADING: ClassVar[str] = "Routing"

    policy: Annotated[str | None, Option(help=f"Routing policy: {', '.join(POLICY_NAMES)}.")] = None
    shadow_policy: Annotated[
        str | None, Option(help="Second policy, evaluated for comparison only.")
    ] = None
    shadow: Annotated[str | None, Option("--shadow", hidden=True)] = None
    session_affinity: Annotated[
        str,
        Option(
            help="Where requests name their session, which keeps them at one replica under every "
            "policy: header:NAME, cookie:NAME, prompt_cache_key, user; off = nowhere."
        ),
    ] = ",".join(USUAL)
    policy_header: Annotated[
        bool, Option(help="Whether a request may choose its policy with x-servekit-policy.")
    ] = True
    kv_events: Annotated[
        str | None,
        Option(help="Where replicas publish KV-cache events: tcp://{host}:5557; {name}, {port}."),
    ] = None
    kv_events_replay: Annotated[
        str | None,
        Option(help="Replay endpoint of KV-cache events: tcp://{host}:5558."),
    ] = None
    seed: Annotated[int | None, Option(help="Random seed.  [default: random]")] = None


@dataclass(frozen=True, slots=True)
class LimitOptions:
    """How much is accepted, and for how long it may take."""

    HEADING: ClassVar[str] = "Limits and timeouts"

    max_in_flight: Annotated[
        int,
        Option(min=0, help="Max concurrent requests per replica; excess is queued. 0 = no limit."),
    ] = 0
    most_in_flight: Annotated[int | None, Option("--most-in-flight", min=0, hidden=True)] = None
    max_body: Annotated[int, Option(min=1, help="Max size of a request body (MiB).")] = 32
    max_body_memory: Annotated[
        int, Option(min=1, help="Max memory for request bodies per worker (MiB).")
    ] = 1024
    upstream_read_timeout_s: Annotated[
        float, Option(min=0.1, help="Upstream read timeout (s): max silence of a replica.")
    ] = 1800.0
    answer_timeout_s: Annotated[
        float | None, Option("--answer-timeout-s", min=0.1, hidden=True)
    ] = None
    drain_timeout_s: Annotated[
        float, Option(min=0.0, help="Max time for running requests to end after SIGTERM (s).")
    ] = 30.0
    drain_s: Annotated[float | None, Option("--drain-s", min=0.0, hidden=True)] = None


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Where it listens, and for whom."""

    HEADING: ClassVar[str] = "Server"

    host: Annotated[str, Option(help="Address to listen on.")] = "127.0.0.1"
    admin_port: Annotated[
        int | None, Option(help="Separate port for /metrics, /replicas, /decisions and /status.")
    ] = None
    workers: Annotated[int, Option(help="Worker processes that share the port.")] = 1
    api_keys: Annotated[
        Path | None, Option(help="File with the SHA-256 of one API key per line.")
    ] = None
    tls_cert: Annotated[
        Path | None, Option(help="TLS certificate chain (PEM); the ports then speak TLS only.")
    ] = None
    tls_key: Annotated[
        Path | None, Option(help="Private key (PEM).  [default: in the file of --tls-cert]")
    ] = None
    tls_client_ca: Annotated[
        Path | None, Option(help="CA file (PEM): require a client certificate signed by it (mTLS).")
    ] = None
    admin_keys: Annotated[
        Path | None,
        Option(help="Same for admins: metrics, and what changes engines (LoRA, sleep, caches)."),
    ] = None
    cors_origins: Annotated[
        str, Option(help="Comma-separated web origins that may read answers; * = any.")
    ] = ""
    extra_paths: Annotated[
        str, Option(help="Comma-separated further paths to relay by POST, such as /v1/x.")
    ] = ""


@dataclass(frozen=True, slots=True)
class ObservabilityOptions:
    """What is recorded."""

    HEADING: ClassVar[str] = "Observability"

    decision_log: Annotated[
        Path | None, Option(help="File for routing decisions; bench can replay it.")
    ] = None
    otlp_endpoint: Annotated[
        str | None, Option(help="URL of an OpenTelemetry collector, for traces.")
    ] = None


class UpstreamCas(msgspec.Struct, frozen=True):
    """Who signs the certificates of replicas.

    Attributes:
        default: a CA file; None: the system's CAs.
        by_authority: CA files of single replicas, by their `host:port`.
    """

    default: Path | None = None
    by_authority: dict[str, Path] = {}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the command line and the environment decide.

    Attributes:
        fleet: name or path of a fleet; None where *urls* or a *source* are given.
        source: a DNS name that stands for the replicas.
        admin_port: port of /metrics and the other admin endpoints; None: the main port.
        collector: URL that receives spans.
        kv_events, kv_events_replay: patterns of where replicas publish KV-cache events.
        tls: what the ports prove themselves with; None: they speak plain HTTP.
        engine_key: the engines' API key; empty where they have none.
    """

    rules: Rules
    fleet: str | None
    urls: tuple[str, ...]
    host: str
    port: int
    api_keys: Path | None
    admin_keys: Path | None = None
    drain_s: float
    seed: int | None
    workers: int = 1
    source: DnsSource | None = None
    decision_log: Path | None = None
    admin_port: int | None = None
    collector: str | None = None
    kv_events: str | None = None
    kv_events_replay: str | None = None
    engine_key: Secret = Secret()
    tls: ServerTlsFiles | None = None
    upstream_ca: UpstreamCas = UpstreamCas()


def read_plan(
    environ: Mapping[str, str],
    warn: Callable[[str], None],
    *,
    settings: BalancerSettings,
    port: int,
    default_policy: str,
    replicas: ReplicaOptions,
    routing: RoutingOptions,
    limits: LimitOptions,
    server: ServerOptions,
    observability: ObservabilityOptions,
) -> Plan:
    """Return the plan that these options and *settings*, read from *environ*, make.

    Raises:
        SettingInvalid: a value is not valid, or two contradict each other.
    """
    if not 0 < settings.metrics_poll_interval < float("inf"):
        raise SettingInvalid(
            f"METRICS_POLL_INTERVAL is {settings.metrics_poll_interval:g}; it must be above 0 (s)"
        )
    if server.workers < 1:
        raise SettingInvalid(f"--workers is {server.workers}; it must be at least 1")
    _require_one_source(replicas)
    source = read_source(replicas.discover) if replicas.discover else None
    named = replicas.fleet or source
    urls = _urls(replicas.endpoints) or (() if named else settings.vllm_endpoints)
    return Plan(
        rules=_rules(settings, routing.policy or default_policy, routing, limits, server),
        fleet=None if urls or source else replicas.fleet or DEFAULT_FLEET,
        urls=urls,
        host=server.host,
        port=port,
        api_keys=server.api_keys,
        admin_keys=server.admin_keys,
        drain_s=limits.drain_timeout_s if limits.drain_s is None else limits.drain_s,
        seed=routing.seed,
        kv_events=routing.kv_events,
        kv_events_replay=routing.kv_events_replay,
        workers=server.workers,
        source=source,
        decision_log=observability.decision_log,
        admin_port=server.admin_port,
        engine_key=_header_value("VLLM_API_KEY", settings.vllm_api_key),
        tls=_tls_files(server),
        upstream_ca=_upstream_cas(replicas.upstream_ca),
        collector=collector_url(
            observability.otlp_endpoint, read_settings(OtelSettings, environ, warn), warn
        ),
    )


def _rules(
    settings: BalancerSettings,
    policy: str,
    routing: RoutingOptions,
    limits: LimitOptions,
    server: ServerOptions,
) -> Rules:
    timeout_s, most = limits.answer_timeout_s, limits.most_in_flight
    return Rules(
        policy=policy,
        shadow=routing.shadow_policy or routing.shadow,
        sessions=read_sources(routing.session_affinity),
        policy_header=routing.policy_header,
        cors_origins=read_origins(server.cors_origins),
        extra_paths=_paths(server.extra_paths),
        poll_s=settings.metrics_poll_interval,
        answer_timeout_s=limits.upstream_read_timeout_s if timeout_s is None else timeout_s,
        max_in_flight=limits.max_in_flight if most is None else most,
        max_body_bytes=limits.max_body * _MIB,
        max_body_memory_bytes=limits.max_body_memory * _MIB,
    )


def _tls_files(server: ServerOptions) -> ServerTlsFiles | None:
    """Return the files for TLS, if it is wanted.

    Raises:
        SettingInvalid: there is a key or a CA, but no certificate.
    """
    if server.tls_cert is not None:
        return ServerTlsFiles(
            server.tls_cert, server.tls_key or server.tls_cert, server.tls_client_ca
        )
    for option, given in {
        "--tls-key": server.tls_key,
        "--tls-client-ca": server.tls_client_ca,
    }.items():
        if given is not None:
            raise SettingInvalid(f"{option} is given without --tls-cert; give the certificate too")
    return None


def _upstream_cas(given: str | None) -> UpstreamCas:
    """Return who signs the certificates of replicas.

    Raises:
        SettingInvalid: two files are given for the same replicas.
    """
    default: list[Path] = []
    by_authority: dict[str, Path] = {}
    for part in filter(None, map(str.strip, (given or "").split(","))):
        authority, equals, path = part.partition("=")
        if not equals:
            default.append(Path(part))
            continue
        authority = read_address(f"https://{authority}").authority
        if authority in by_authority:
            raise SettingInvalid(f"--upstream-ca names {authority} twice; give it one file")
        by_authority[authority] = Path(path)
    if len(default) > 1:
        raise SettingInvalid(
            f"--upstream-ca has {len(default)} files for all replicas; join them in one"
        )
    return UpstreamCas(default[0] if default else None, by_authority)


def named_replicas(urls: tuple[str, ...]) -> dict[str, str]:
    """Return *urls* by the names that their replicas get: those before a `=`, or the addresses.

    Raises:
        SettingInvalid: one is not a URL, or is given twice.
    """
    named: dict[str, str] = {}
    for given in urls:
        match = _NAMED_URL.fullmatch(given)
        url = match[2] if match else given
        address = read_address(url)
        # Several engines may be behind one host, with paths of their own.
        name = match[1] if match else address.authority + address.path
        if name in named:
            raise SettingInvalid(f"duplicate endpoint {name!r}; give each replica once")
        named[name] = url
    return named


def _require_one_source(replicas: ReplicaOptions) -> None:
    options = {
        "--fleet": replicas.fleet,
        "--endpoints": replicas.endpoints,
        "--discover": replicas.discover,
    }
    given = [option for option, value in options.items() if value is not None]
    if len(given) > 1:
        raise SettingInvalid(f"{' and '.join(given)} exclude each other; give one of them")
    if given and not (options[given[0]] or "").strip(", "):
        raise SettingInvalid(f"{given[0]} is empty; give a value, or leave the option out")


def _paths(text: str) -> tuple[str, ...]:
    paths = tuple(path.strip() for path in text.split(",") if path.strip())
    for path in paths:
        if _PATH.fullmatch(path) is None:
            raise SettingInvalid(
                f"--extra-paths has {path!r}; write /v1/x: letters, digits, '-', '_' and '/'"
            )
    return paths


def _urls(endpoints: str | None) -> tuple[str, ...]:
    return tuple(url.strip() for url in (endpoints or "").split(",") if url.strip())


def _header_value(name: str, value: Secret) -> Secret:
    """Return *value*, of the variable *name*, if it can be sent in a header.

    Raises:
        SettingInvalid: it cannot; the message does not show it.
    """
    text = value.reveal()
    if text.isascii() and text.isprintable():
        return value
    raise SettingInvalid(f"{name} has a character that no HTTP header may hold; remove line ends")
