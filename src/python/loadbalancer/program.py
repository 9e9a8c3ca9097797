"""The one program behind both load balancers: options and environment -> a running server."""

import asyncio
import contextlib
import os
import signal
import socket
from pathlib import Path
from random import Random
from typing import Annotated

import msgspec
import structlog
import typer

from loadbalancer.balancer import Balancer, Rules
from loadbalancer.keys import load_keys
from loadbalancer.reloading import Watched, apply_fleet, watch_all
from loadbalancer.serving import Server
from loadbalancer.workers import SharedCounts
from servekit.cli.logs import announce, configure_logs
from servekit.cli.server import run_until_stopped
from servekit.errors.tree import SettingInvalid
from servekit.fleet.fleet import load_fleet
from servekit.relay.listening import listen
from servekit.settings.environment import Settings, read_settings
from servekit.timing.clock import SystemClock
from servekit.wire.address import read_address

log = structlog.get_logger()

DEFAULT_FLEET = "h100"


class BalancerSettings(Settings, frozen=True, kw_only=True):
    """What the environment may set; an option on the command line wins."""

    vllm_endpoints: tuple[str, ...] = ()
    metrics_poll_interval: float = 0.2
    log_level: str = "info"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the command line and the environment decide.

    Attributes:
        fleet: name or path of a fleet; None where *urls* are given.
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


def balancer_app(*, port: int, policy: str, what: str) -> typer.Typer:
    """Return the command line of a load balancer with these defaults."""
    app = typer.Typer(add_completion=False)

    @app.command(help=what)
    def serve(
        fleet: Annotated[str | None, typer.Option(help="a fleet of ours, or a file")] = None,
        endpoints: Annotated[str | None, typer.Option(help="URL,URL,… instead of a fleet")] = None,
        host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
        port: Annotated[int, typer.Option(help="port; 0 is a free one")] = port,
        policy: Annotated[str, typer.Option(help="routing policy")] = policy,
        shadow: Annotated[str | None, typer.Option(help="policy to compare with")] = None,
        drain_s: Annotated[float, typer.Option(help="seconds to finish what runs")] = 30.0,
        answer_timeout_s: Annotated[float, typer.Option(help="longest silence")] = 300.0,
        api_keys: Annotated[
            Path | None, typer.Option(help="file of SHA-256 digests, one key a line")
        ] = None,
        most_in_flight: Annotated[
            int, typer.Option(help="requests per replica before others wait here; 0 is no limit")
        ] = 0,
        workers: Annotated[int, typer.Option(help="processes that share the port")] = 1,
        seed: Annotated[int | None, typer.Option(help="makes chance repeatable")] = None,
    ) -> None:
        settings = read_settings(BalancerSettings, os.environ, _warn)
        configure_logs(settings.log_level)
        if settings.metrics_poll_interval <= 0:
            raise SettingInvalid("METRICS_POLL_INTERVAL is not above 0; give it in seconds")
        rules = Rules(
            policy=policy,
            shadow=shadow,
            poll_s=settings.metrics_poll_interval,
            answer_timeout_s=answer_timeout_s,
            most_in_flight=most_in_flight,
        )
        urls = _urls(endpoints) or (() if fleet else settings.vllm_endpoints)
        plan = Plan(
            rules=rules,
            fleet=None if urls else fleet or DEFAULT_FLEET,
            urls=urls,
            host=host,
            port=port,
            api_keys=api_keys,
            drain_s=drain_s,
            seed=seed,
            workers=workers,
        )
        if workers < 1:
            raise SettingInvalid(f"--workers is {workers}; it is at least 1")
        _run(plan)

    return app


def _run(plan: Plan) -> None:
    """Serve in this process, or in as many as were asked for."""
    first = listen(plan.host, plan.port, shared=plan.workers > 1)
    if plan.workers == 1:
        run_until_stopped(lambda stop: _serve(plan, stop, first, None))
        return
    shared = SharedCounts(plan.workers)
    # Whoever listens on the port that the first was given, listens on the same one.
    port = first.getsockname()[1]
    children = [_fork(plan, shared, worker, port) for worker in range(1, plan.workers)]
    shared.become(0)
    try:
        run_until_stopped(lambda stop: _serve(plan, stop, first, shared))
    finally:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)
        for child in children:
            os.waitpid(child, 0)


def _fork(plan: Plan, shared: SharedCounts, worker: int, port: int) -> int:
    """Start a worker; return its process id."""
    child = os.fork()
    if child:
        return child
    shared.become(worker)
    listening = listen(plan.host, port, shared=True)
    code = 1
    try:
        run_until_stopped(lambda stop: _serve(plan, stop, listening, shared))
        code = 0
    finally:
        # Not the parent's clean-up.
        os._exit(code)
    raise AssertionError


async def _serve(
    plan: Plan, stop: asyncio.Event, listening: socket.socket, shared: SharedCounts | None
) -> None:
    clock = SystemClock()
    rng = Random(plan.seed)
    balancer = Balancer(plan.rules, rng, clock.now, shared)
    server = Server(balancer, clock, rng)
    files = _files(plan, balancer, server)
    await server.start(listening)
    host, port = listening.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if shared is None or shared.worker == 0:
        announce("ready", url=url, policy=plan.rules.policy)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, lambda: [file.reload() for file in files])
    watching = asyncio.create_task(watch_all(files, clock))
    await stop.wait()
    watching.cancel()
    await server.stop(plan.drain_s)


def _files(plan: Plan, balancer: Balancer, server: Server) -> list[Watched]:
    """Read what is configured in files, and return those that may change.

    Raises:
        ConfigError: one is not valid.
    """
    files: list[Watched] = []
    fleet, keys = plan.fleet, plan.api_keys
    for url in plan.urls:
        balancer.add(read_address(url).authority, url)
    if fleet is not None:

        def reread_fleet() -> None:
            apply_fleet(balancer, load_fleet(fleet))
            server.pollers.follow()

        apply_fleet(balancer, load_fleet(fleet))
        files.append(Watched(Path(fleet), reread_fleet))
    if keys is not None:

        def reread_keys() -> None:
            server.desk.keys = load_keys(keys)

        reread_keys()
        files.append(Watched(keys, reread_keys))
    return files


def _urls(endpoints: str | None) -> tuple[str, ...]:
    return tuple(url.strip() for url in (endpoints or "").split(",") if url.strip())


def _warn(message: str) -> None:
    log.warning(message)
