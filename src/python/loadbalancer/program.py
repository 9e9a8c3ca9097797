"""The one program behind both load balancers: options and environment -> a running server."""

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Any

import structlog
from typer import Option

from loadbalancer.balancing.balancer import Balancer
from loadbalancer.kvevents.endpoints import Endpoints, endpoints_of
from loadbalancer.kvevents.exact import KvKnowledge
from loadbalancer.membership.dns_source import DnsSource
from loadbalancer.membership.reloading import WatchedFile, apply_fleet, check_fleet, watch_all
from loadbalancer.observe.decision_log import DecisionLog
from loadbalancer.plan import (
    BalancerSettings,
    LimitOptions,
    ObservabilityOptions,
    Plan,
    ReplicaOptions,
    RoutingOptions,
    ServerOptions,
    named_replicas,
    read_plan,
)
from loadbalancer.server.keys import KeyRing, load_keys
from loadbalancer.server.server import Server
from loadbalancer.workers.shared_counts import SharedCounts
from loadbalancer.workers.shared_stats import SharedStats, WorkerStats, discard_worker
from loadbalancer.workers.supervisor import Supervisor
from servekit.cli.app import ProgramApp
from servekit.cli.logs import announce, configure_logs
from servekit.cli.options import grouped
from servekit.cli.server import run_until_stopped
from servekit.errors.tree import SettingInvalid
from servekit.fleet.fleet import load_fleet
from servekit.relay import http2
from servekit.relay.listening import listen
from servekit.relay.tls import ServerTls, UpstreamTls
from servekit.routing.registry import policy_named
from servekit.settings.environment import read_settings
from servekit.timing.clock import Clock, SystemClock
from servekit.wire.address import Address

if TYPE_CHECKING:
    from loadbalancer.observe.tracing import Tracing

log = structlog.get_logger()


def balancer_app(
    *, port: int, policy: str, what: str, run: Callable[[Plan], None] | None = None
) -> ProgramApp:
    """Return the command line of a load balancer with these defaults; *run* does what it says."""
    run = run or serve_plan
    app = ProgramApp("loadbalancer")

    def serve(
        replicas: ReplicaOptions,
        server: ServerOptions,
        routing: RoutingOptions,
        limits: LimitOptions,
        observability: ObservabilityOptions,
        port: Annotated[
            int, Option(rich_help_panel=ServerOptions.HEADING, help="Port to listen on; 0 = any.")
        ] = port,
    ) -> None:
        settings = read_settings(BalancerSettings, os.environ, _warn)
        configure_logs(settings.log_level)
        plan = read_plan(
            os.environ,
            _warn,
            settings=settings,
            port=port,
            default_policy=policy,
            replicas=replicas,
            routing=routing,
            limits=limits,
            server=server,
            observability=observability,
        )
        run(plan)

    app.command(help=f"{what}  The default policy is {policy}.")(grouped(serve))
    return app


def serve_plan(plan: Plan) -> None:
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
    # Workers listen on the ports that these sockets were given.
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
    """Check here what every worker would fail of, again and again.

    Raises:
        ConfigError: a file is not valid, or a name unknown.
    """
    for name in filter(None, (plan.rules.policy, plan.rules.shadow)):
        policy_named(name, Random(0))
    named_replicas(plan.urls)
    if plan.fleet is not None:
        check_fleet(load_fleet(plan.fleet))
    for keys in (plan.api_keys, plan.admin_keys):
        if keys is not None:
            load_keys(keys)
    _server_tls(plan)
    _upstream_tls(plan)


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
    tls, upstream_tls = _server_tls(plan), _upstream_tls(plan)
    balancer = Balancer(
        plan.rules,
        rng,
        clock.now,
        place.counts,
        decisions,
        engine_key=plan.engine_key,
        upstream_tls=upstream_tls,
    )
    stats = WorkerStats(balancer, place.shared_stats, place.worker)
    stats.resume()
    server = Server(balancer, clock, rng, stats=stats, admin=place.admin, tls=tls)
    tracing = None
    if plan.collector is not None:
        tracing = _tracing(plan.collector, place.listening, clock)
        server.use_tracing(tracing)
    files = [*_files(plan, balancer, server), *_watched(tls), *_watched(upstream_tls)]
    tasks = [watch_all(files, clock)]
    if plan.source is not None:
        tasks.append(await _discover(plan.source, balancer, server, rng, clock))
    if decisions is not None:
        tasks.append(decisions.run(clock))
    if plan.kv_events is not None:
        tasks.append(_follow_caches(plan.kv_events, plan.kv_events_replay, balancer, clock))
    if place.shared_stats is not None:
        tasks.append(_end_with(os.getppid(), stop, clock))
    loop = asyncio.get_running_loop()
    # Before the port is announced: a SIGHUP may come at once.
    loop.add_signal_handler(signal.SIGHUP, lambda: [file.reload() for file in files])
    await server.start(place.listening)
    if place.announced:
        secure = tls is not None
        admin = {} if place.admin is None else {"admin_url": _url_of(place.admin, secure=secure)}
        url = _url_of(place.listening, secure=secure)
        announce("ready", url=url, policy=plan.rules.policy, **admin)
    running = [loop.create_task(task) for task in tasks]
    await stop.wait()
    await server.stop(plan.drain_s)
    if tracing is not None:
        await asyncio.to_thread(tracing.close)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


def _decision_log(plan: Plan, place: Place, clock: Clock) -> DecisionLog | None:
    """Return the decision log, if any; each of several workers has its own file."""
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


def _follow_caches(
    events: str, replay: str | None, balancer: Balancer, clock: Clock
) -> Coroutine[Any, Any, None]:
    """Have the balancer know the engines' caches; return what goes on hearing their events.

    Raises:
        SettingInvalid: a pattern is not valid.
    """
    # Only here: ZeroMQ is an extra.
    try:
        from loadbalancer.kvevents.subscriber import KvSubscriber
    except ImportError as error:
        raise SettingInvalid(
            "--kv-events needs ZeroMQ, which is not installed; install "
            "servekit[kv-events], or leave the option out"
        ) from error

    endpoints_of("name", "host", 1, events, replay)

    def of_replica(name: str) -> Endpoints:
        address = balancer.replicas[name].upstream.address
        return endpoints_of(name, address.host, address.port, events, replay)

    subscriber = KvSubscriber(of_replica)
    balancer.kv = KvKnowledge(subscriber.replicas, clock.now)
    return subscriber.run(lambda: balancer.replicas, clock)


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
    """Stop once *parent* is gone: nothing else would end this worker."""
    while os.getppid() == parent:
        await clock.sleep(1.0)
    stop.set()


def _url_of(listening: socket.socket, *, secure: bool) -> str:
    host, port = listening.getsockname()[:2]
    return Address(host, port, secure).url


def _server_tls(plan: Plan) -> ServerTls | None:
    return None if plan.tls is None else ServerTls(plan.tls, http2=http2.is_available())


def _upstream_tls(plan: Plan) -> UpstreamTls:
    return UpstreamTls(plan.upstream_ca.default, plan.upstream_ca.by_authority)


def _watched(tls: ServerTls | UpstreamTls | None) -> list[WatchedFile]:
    """Return the files of *tls*: where one changes, all are read again."""
    return [] if tls is None else [WatchedFile(path, tls.reload) for path in tls.paths()]


def _files(plan: Plan, balancer: Balancer, server: Server) -> list[WatchedFile]:
    """Read what is configured in files, and return those that may change.

    Raises:
        ConfigError: one is not valid.
    """
    files: list[WatchedFile] = []
    fleet = plan.fleet
    for name, url in named_replicas(plan.urls).items():
        balancer.add(name, url)
    if fleet is not None:

        def reread_fleet() -> None:
            apply_fleet(balancer, load_fleet(fleet))
            server.pollers.follow()

        apply_fleet(balancer, load_fleet(fleet))
        files.append(WatchedFile(Path(fleet), reread_fleet))
    if plan.api_keys is not None:
        files.append(_key_file(plan.api_keys, server.use_keys))
    if plan.admin_keys is not None:
        files.append(_key_file(plan.admin_keys, server.use_admin_keys))
    return files


def _key_file(path: Path, use: Callable[[KeyRing], None]) -> WatchedFile:
    def reread() -> None:
        use(load_keys(path))

    reread()
    return WatchedFile(path, reread)


def _warn(message: str) -> None:
    log.warning(message)
