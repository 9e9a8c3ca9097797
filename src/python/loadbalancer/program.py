"""The one program behind both load balancers: options and environment -> a running server."""

import asyncio
import os
from random import Random
from typing import Annotated

import structlog
import typer

from loadbalancer.balancer import Balancer, Rules
from loadbalancer.serving import Server, listen
from loadbalancer.upstream import read_address
from servekit.cli.logs import announce, configure_logs
from servekit.cli.server import run_until_stopped
from servekit.errors.tree import SettingInvalid
from servekit.fleet.fleet import Fleet, load_fleet
from servekit.settings.environment import Settings, read_settings
from servekit.timing.clock import SystemClock

log = structlog.get_logger()

DEFAULT_FLEET = "h100"


class BalancerSettings(Settings, frozen=True, kw_only=True):
    """What the environment may set; an option on the command line wins."""

    vllm_endpoints: tuple[str, ...] = ()
    metrics_poll_interval: float = 0.2
    log_level: str = "info"


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
        )
        urls = _urls(endpoints) or (() if fleet else settings.vllm_endpoints)
        planned = None if urls else load_fleet(fleet or DEFAULT_FLEET)
        run_until_stopped(
            lambda stop: _serve(stop, rules, planned, urls, (host, port), Random(seed), drain_s)
        )

    return app


async def _serve(
    stop: asyncio.Event,
    rules: Rules,
    fleet: Fleet | None,
    urls: tuple[str, ...],
    where: tuple[str, int],
    rng: Random,
    drain_s: float,
) -> None:
    clock = SystemClock()
    balancer = Balancer(rules, rng, clock.now)
    add_replicas(balancer, fleet, urls)
    server = Server(balancer, clock, rng)
    listening = listen(*where)
    await server.start(listening)
    host, port = listening.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    announce("ready", url=url, policy=rules.policy)
    await stop.wait()
    await server.stop(drain_s)


def add_replicas(balancer: Balancer, fleet: Fleet | None, urls: tuple[str, ...]) -> None:
    """Add the replicas of *fleet*, whose models it names, or those at *urls*, who are asked."""
    for url in urls:
        balancer.add(read_address(url).authority, url)
    if fleet is None:
        return
    for replica in fleet.replicas:
        balancer.add(replica.name, replica.url, (replica.model,))
    for model in fleet.models:
        if model.policy is not None:
            balancer.set_policy(model.name, model.policy)


def _urls(endpoints: str | None) -> tuple[str, ...]:
    return tuple(url.strip() for url in (endpoints or "").split(",") if url.strip())


def _warn(message: str) -> None:
    log.warning(message)
