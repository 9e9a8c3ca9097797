"""`simulator`: a fleet of vLLM engines without a GPU."""

import asyncio
from enum import StrEnum
from typing import Annotated

import structlog
import typer

from servekit.cli.app import ProgramApp
from servekit.cli.logs import announce, configure_logs
from servekit.cli.program import run_program
from servekit.cli.server import run_until_stopped
from servekit.errors.tree import SettingInvalid
from servekit.fleet.fleet import load_fleet
from simulator.servers import ReplicaServer, replica_servers, serve_fleet, stop_all

log = structlog.get_logger()

app = ProgramApp("simulator")


class Ports(StrEnum):
    """Free ports, or those of the fleet file."""

    auto = "auto"
    fleet = "fleet"


@app.command()
def simulate(
    fleet: Annotated[str, typer.Option(help="a fleet of ours by name, or a fleet file")] = "h100",
    ports: Annotated[Ports, typer.Option(help="free ports, or those of the file")] = Ports.auto,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    seed: Annotated[int, typer.Option(help="decides output lengths and faults by chance")] = 0,
    speed: Annotated[float, typer.Option(help="times as fast as the calibrated engine")] = 1.0,
    only: Annotated[str | None, typer.Option(help="one replica, or those of one model")] = None,
    max_num_queued_reqs: Annotated[
        int | None, typer.Option(help="requests in an engine before it answers 503")
    ] = None,
) -> None:
    """Serve every replica of a fleet on a port of its own, until stopped."""
    configure_logs()
    if not 0.001 <= speed <= 1000:
        raise SettingInvalid(f"--speed is {speed}; it is from 0.001 to 1000")
    servers = replica_servers(
        load_fleet(fleet),
        host=host,
        fixed_ports=ports is Ports.fleet,
        only=only,
        speed=speed,
        seed=seed,
        max_in_flight=max_num_queued_reqs,
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
    announce("ready", replicas={server.spec.name: server.url for server in servers})
    await serve_fleet(servers, stop)


if __name__ == "__main__":
    run_program(app)
