"""`simulator`: a fleet of vLLM engines without a GPU."""

import asyncio
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

import structlog
import typer

from servekit.cli.app import ProgramApp
from servekit.cli.logs import announce, configure_logs
from servekit.cli.options import grouped
from servekit.cli.program import run_program
from servekit.cli.server import run_until_stopped
from servekit.errors.tree import SettingInvalid
from servekit.fleet.fleet import load_fleet
from simulator.servers import (
    ReplicaServer,
    SimulationSettings,
    replica_servers,
    serve_fleet,
    stop_all,
)
from simulator.vllm_version import VLLM_VERSION, read_vllm_version

log = structlog.get_logger()

app = ProgramApp("simulator")


class Ports(StrEnum):
    """Free ports, or those of the fleet file."""

    fleet = "fleet"
    auto = "auto"


@dataclass(frozen=True)
class FleetOptions:
    """Which replicas are simulated."""

    HEADING: ClassVar[str] = "Fleet"

    fleet: Annotated[str, typer.Option(help="Built-in fleet name, or path of a fleet file.")] = (
        "h100"
    )
    only: Annotated[
        str | None,
        typer.Option(
            help="Serve one replica, or the replicas of one model, by name or short name."
        ),
    ] = None


@dataclass(frozen=True)
class ListenOptions:
    """Where the replicas listen."""

    HEADING: ClassVar[str] = "Network"

    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1"
    ports: Annotated[
        Ports,
        typer.Option(help="Ports: fleet = those of the fleet file, auto = free ones."),
    ] = Ports.fleet


@dataclass(frozen=True)
class SimulationOptions:
    """How the engines behave."""

    HEADING: ClassVar[str] = "Simulation"

    speed: Annotated[
        float, typer.Option(help="Speed-up over the calibrated engine, 0.001 to 1000.")
    ] = 1.0
    seed: Annotated[
        int, typer.Option(help="Random seed of output lengths and of faults with a share.")
    ] = 0
    max_num_queued_reqs: Annotated[
        int | None,
        typer.Option(help="Max requests in one engine; further ones are answered with 503."),
    ] = None
    vllm_version: Annotated[
        str,
        typer.Option(help="Release of vLLM to imitate, in /version and in what /metrics counts."),
    ] = str(VLLM_VERSION)


@app.command()
@grouped
def simulate(where: FleetOptions, listen: ListenOptions, how: SimulationOptions) -> None:
    """Serve every replica of a fleet over HTTP, each on its own port, until stopped."""
    configure_logs()
    if not (math.isfinite(how.speed) and 0.001 <= how.speed <= 1000):
        raise SettingInvalid(f"--speed is {how.speed}; it must be from 0.001 to 1000")
    if not -(2**62) <= how.seed <= 2**62:
        raise SettingInvalid(f"--seed is {how.seed}; it must fit in 62 bits")
    if how.max_num_queued_reqs is not None and how.max_num_queued_reqs < 1:
        raise SettingInvalid(
            f"--max-num-queued-reqs is {how.max_num_queued_reqs}; it must be at least 1"
        )
    servers = replica_servers(
        load_fleet(where.fleet),
        host=listen.host,
        fixed_ports=listen.ports is Ports.fleet,
        only=where.only,
        settings=SimulationSettings(
            speed=how.speed,
            seed=how.seed,
            max_in_flight=how.max_num_queued_reqs,
            vllm_version=read_vllm_version(how.vllm_version),
        ),
    )
    run_until_stopped(lambda stop: _serve(servers, stop))


async def _serve(servers: list[ReplicaServer], stop: asyncio.Event) -> None:
    started: list[ReplicaServer] = []
    try:
        for server in servers:
            await server.start()
            started.append(server)
    except SettingInvalid:
        await stop_all(started)
        raise
    for server in servers:
        calibration = server.spec.calibration
        log.info("replica ready", replica=server.spec.name, calibration=calibration.source)
    announce(
        "ready",
        replicas={server.spec.name: server.url for server in servers},
        endpoints=",".join(server.url for server in servers),
    )
    await serve_fleet(servers, stop)


if __name__ == "__main__":
    run_program(app)
