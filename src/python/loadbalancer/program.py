"""The one program behind both load balancers: options and environment -> a running server."""

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import structlog
import typer

from loadbalancer.balancing.balancer import Balancer, Rules
from loadbalancer.membership.dns_source import DnsSource, read_source
from loadbalancer.membership.reloading import WatchedFile, apply_fleet, check_fleet, watch_all
from loadbalancer.observe.decision_log import DecisionLog
from loadbalancer.observe.otlp_settings import OtelSettings, collector_url
from loadbalancer.server.keys import load_keys
from loadbalancer.server.server import Server
from loadbalancer.workers.shared_counts import SharedCounts
from loadbalancer.workers.shared_stats import SharedStats, WorkerStats, discard_worker
from loadbalancer.workers.supervisor import Supervisor
from servekit.cli.app import ProgramApp
from servekit.cli.logs import announce, configure_logs
from servekit.cli.server import run_until_stopped
from servekit.errors.tree import SettingInvalid
from servekit.fleet.fleet import load_fleet
from servekit.relay.listening import listen
from servekit.routing.registry import POLICY_NAMES, policy_named
from servekit.settings.environment import Settings, read_settings
from servekit.timing.clock import Clock, SystemClock
from servekit.wire.address import read_address

if TYPE_CHECKING:
    from loadbalancer.observe.tracing import Tracing

log = structlog.get_logger()

DEFAULT_FLEET = "h100"


class BalancerSettings(Settings, frozen=True, kw_only=True):
    """What the environment may set; an option on the command line wins."""

    vllm_endpoints: tuple[str, ...] = ()
    metrics_poll_interval: float = 0.2
    log_level: str = "info"
    vllm_api_key: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the command line and the environment decide.

    Attributes:
        fleet: name or path of a fleet; None where *urls* or a *source* are given.
        source: a DNS name that stands for the replicas.
        admin_port: where /metrics and its like are answered, if not beside the requests.
        collector: URL that takes spans.
        engine_key: what the engines ask for, if anything.
    """

    rules: Rules
    fleet: str | None
    urls: tuple[str, ...]
    host: str
    port: int
    api_keys: Path | None
    drain_s: float
    seed: int | None
    workers: int = 1
    source: DnsSource | None = None
    decision_log: Path | None = None
    admin_port: int | None = None
    collector: str | None = None
    engine_key: str = ""


def balancer_app(*, port: int, policy: str, what: str) -> ProgramApp:
    """Return the command line of a load balancer with these defaults."""
    app = ProgramApp("loadbalancer")

    @app.command(help=what)
    def serve(
        fleet: Annotated[str | None, typer.Option(help="a fleet of ours, or a file")] = None,
        endpoints: Annotated[str | None, typer.Option(help="URL,URL,… instead of a fleet")] = None,
        discover: Annotated[
            str | None, typer.Option(help="dns://name:port or srv://name instead of a fleet")
        ] = None,
        host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
        port: Annotated[int, typer.Option(help="port; 0 is a free one")] = port,
        policy: Annotated[
            str, typer.Option(help=f"who gets a request: {', '.join(POLICY_NAMES)}")
        ] = policy,
        shadow: Annotated[str | None, typer.Option(help="policy to compare with")] = None,
        drain_s: Annotated[
            float, typer.Option(min=0.0, help="seconds to finish what runs, once asked to stop")
        ] = 30.0,
        answer_timeout_s: Annotated[
            float, typer.Option(min=0.1, help="longest silence of an engine, in seconds")
        ] = 1800.0,
        api_keys: Annotated[
            Path | None, typer.Option(help="file of SHA-256 digests, one key a line")
        ] = None,
        most_in_flight: Annotated[
            int,
            typer.Option(min=0, help="requests per replica before others wait here; 0 is no limit"),
        ] = 0,
        workers: Annotated[int, typer.Option(help="processes that share the port")] = 1,
        admin_port: Annotated[
            int | None, typer.Option(help="port for /metrics, /status and their like alone")
        ] = None,
        decision_log: Annotated[
            Path | None, typer.Option(help="file of decisions, which simulate can replay")
        ] = None,
        otlp_endpoint: Annotated[
            str | None, typer.Option(help="URL of an OpenTelemetry collector that gets spans")
        ] = None,
        seed: Annotated[int | None, typer.Option(help="makes chance repeatable")] = None,
    ) -> None:
        settings = read_settings(BalancerSettings, os.environ, _warn)
        configure_logs(settings.log_level)
        if not 0 < settings.metrics_poll_interval < float("inf"):
            raise SettingInvalid("METRICS_POLL_INTERVAL is not above 0; give it in seconds")
        rules = Rules(
            policy=policy,
            shadow=shadow,
            poll_s=settings.metrics_poll_interval,
            answer_timeout_s=answer_timeout_s,
            most_in_flight=most_in_flight,
        )
        _require_one(**{"--fleet": fleet, "--endpoints": endpoints, "--discover": discover})
        source = read_source(discover) if discover else None
        given = fleet or source
        urls = _urls(endpoints) or (() if given else settings.vllm_endpoints)
        plan = Plan(
            rules=rules,
            fleet=None if urls or source else fleet or DEFAULT_FLEET,
            urls=urls,
            host=host,
            port=port,
            api_keys=api_keys,
            drain_s=drain_s,
            seed=seed,
            workers=workers,
            source=source,
            decision_log=decision_log,
            admin_port=admin_port,
            engine_key=_header_value("VLLM_API_KEY", settings.vllm_api_key),
            collector=collector_url(
                otlp_endpoint, read_settings(OtelSettings, os.environ, _warn), _warn
            ),
        )
        if workers < 1:
            raise SettingInvalid(f"--workers is {workers}; it is at least 1")
        _run(plan)

    return app


def _run(plan: Plan) -> None:
    """Serve in this process, or in as many as were asked for.

    Raises:
        ConfigError: the plan cannot be carried out.
    """
    shared = plan.workers > 1
    listening = listen(plan.host, plan.port, shared=shared)
    admin = None
    if plan.admin_port is not None:
        admin = listen(plan.host, plan.admin_port, shared=shared)
    if not shared:
        run_until_stopped(lambda stop: _serve(plan, stop, Place(listening, admin)))
        return
    _check(plan)
    counts, shared_stats = SharedCounts(plan.workers), SharedStats(plan.workers)
    # Whoever listens on the ports that these were given, listens on the same ones.
    ports = [s.getsockname()[1] if s is not None else None for s in (listening, admin)]

    def work(worker: int, first: bool) -> None:
        counts.become(worker)
        sockets = [None if p is None else listen(plan.host, p, shared=True) for p in ports]
        assert sockets[0] is not None
        place = Place(
            sockets[0], sockets[1], worker, counts, shared_stats, announced=worker == 0 and first
        )
        run_until_stopped(lambda stop: _serve(plan, stop, place))

    def died(worker: int) -> None:
        counts.clear(worker)
        discard_worker(shared_stats, worker)

    Supervisor(plan.workers, work, died).run()


def _check(plan: Plan) -> None:
    """Find out here what every worker would fail of, again and again.

    Raises:
        ConfigError: a file is not valid, or a name unknown.
    """
    for name in filter(None, (plan.rules.policy, plan.rules.shadow)):
        policy_named(name, Random(0))
    _named(plan.urls)
    if plan.fleet is not None:
        check_fleet(load_fleet(plan.fleet))
    if plan.api_keys is not None:
        load_keys(plan.api_keys)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process listens, and which of several it is."""

    listening: socket.socket
    admin: socket.socket | None = None
    worker: int = 0
    counts: SharedCounts | None = None
    shared_stats: SharedStats | None = None
    announced: bool = True


async def _serve(plan: Plan, stop: asyncio.Event, place: Place) -> None:
    clock = SystemClock()
    rng = Random(plan.seed)
    decisions = _decision_log(plan, place, clock)
    balancer = Balancer(
        plan.rules, rng, clock.now, place.counts, decisions, engine_key=plan.engine_key
    )
    stats = WorkerStats(balancer, place.shared_stats, place.worker)
    stats.resume()
    server = Server(balancer, clock, rng, stats=stats, admin=place.admin)
    tracing = None
    if plan.collector is not None:
        tracing = _tracing(plan.collector, place.listening, clock)
        server.use_tracing(tracing)
    files = _files(plan, balancer, server)
    tasks = [watch_all(files, clock)]
    if plan.source is not None:
        tasks.append(await _discover(plan.source, balancer, server, rng, clock))
    if decisions is not None:
        tasks.append(decisions.run(clock))
    if place.shared_stats is not None:
        tasks.append(_end_with(os.getppid(), stop, clock))
    loop = asyncio.get_running_loop()
    # Before anybody knows that we listen, and may send it.
    loop.add_signal_handler(signal.SIGHUP, lambda: [file.reload() for file in files])
    await server.start(place.listening)
    if place.announced:
        admin = {} if place.admin is None else {"admin_url": _url_of(place.admin)}
        announce("ready", url=_url_of(place.listening), policy=plan.rules.policy, **admin)
    running = [loop.create_task(task) for task in tasks]
    await stop.wait()
    await server.stop(plan.drain_s)
    if tracing is not None:
        await asyncio.to_thread(tracing.close)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


def _decision_log(plan: Plan, place: Place, clock: Clock) -> DecisionLog | None:
    """Return the log that was asked for; each of several workers has a file of its own."""
    path = plan.decision_log
    if path is None:
        return None
    if place.shared_stats is not None:
        path = path.with_name(f"{path.stem}-{place.worker}{path.suffix}")
    return DecisionLog(path, time.time() - clock.now())


def _tracing(collector: str, listening: socket.socket, clock: Clock) -> "Tracing":
    """Return what makes spans, and hear what the SDK has to say."""
    # Only here: the SDK is an extra, and takes 25 MiB.
    from loadbalancer.observe.tracing import SdkLogs, Tracing

    sdk = logging.getLogger("opentelemetry")
    sdk.addHandler(SdkLogs())
    sdk.propagate = False
    host, port = listening.getsockname()[:2]
    return Tracing(collector, (host, port), time.time() - clock.now())


async def _discover(
    source: DnsSource, balancer: Balancer, server: Server, rng: Random, clock: Clock
) -> Coroutine[Any, Any, None]:
    """Look the replicas up for the first time; return what goes on doing so."""
    # Only here: a resolver takes 7 MiB that a fleet file does not need.
    from dns.asyncresolver import Resolver

    from loadbalancer.membership.discovery import Discovery, resolver_of

    discovery = Discovery(source, resolver_of(Resolver()), balancer, server.pollers.follow)
    await discovery.once()
    return discovery.run(clock, rng)


async def _end_with(parent: int, stop: asyncio.Event, clock: Clock) -> None:
    """Stop once *parent* is gone: nobody else would end us."""
    while os.getppid() == parent:
        await clock.sleep(1.0)
    stop.set()


def _url_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _files(plan: Plan, balancer: Balancer, server: Server) -> list[WatchedFile]:
    """Read what is configured in files, and return those that may change.

    Raises:
        ConfigError: one is not valid.
    """
    files: list[WatchedFile] = []
    fleet, keys = plan.fleet, plan.api_keys
    for name, url in _named(plan.urls).items():
        balancer.add(name, url)
    if fleet is not None:

        def reread_fleet() -> None:
            apply_fleet(balancer, load_fleet(fleet))
            server.pollers.follow()

        apply_fleet(balancer, load_fleet(fleet))
        files.append(WatchedFile(Path(fleet), reread_fleet))
    if keys is not None:

        def reread_keys() -> None:
            server.use_keys(load_keys(keys))

        reread_keys()
        files.append(WatchedFile(keys, reread_keys))
    return files


def _named(urls: tuple[str, ...]) -> dict[str, str]:
    """Return *urls* by the names that their replicas get.

    Raises:
        SettingInvalid: one is none, or is given twice.
    """
    named: dict[str, str] = {}
    for url in urls:
        name = read_address(url).authority
        if name in named:
            raise SettingInvalid(f"endpoint {name!r} is given twice; name each replica once")
        named[name] = url
    return named


def _require_one(**sources: str | None) -> None:
    """Refuse to guess where the replicas are.

    Raises:
        SettingInvalid: they are said to be in several places.
    """
    given = [option for option, value in sources.items() if value is not None]
    if len(given) > 1:
        raise SettingInvalid(f"{' and '.join(given)} are given; say once where the replicas are")
    if given and not (sources[given[0]] or "").strip(", "):
        raise SettingInvalid(f"{given[0]} is empty; say where the replicas are, or leave it out")


def _urls(endpoints: str | None) -> tuple[str, ...]:
    return tuple(url.strip() for url in (endpoints or "").split(",") if url.strip())


def _header_value(name: str, value: str) -> str:
    """Return *value*, of the variable *name*, if it can stand in a header.

    Raises:
        SettingInvalid: it cannot; the message does not show it, for it is a secret.
    """
    if value.isascii() and value.isprintable():
        return value
    raise SettingInvalid(f"{name} holds what no header can; is there a line end in it?")


def _warn(message: str) -> None:
    log.warning(message)
