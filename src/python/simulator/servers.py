"""Every replica of a fleet in one process, each on its own port."""

import asyncio
import socket
from dataclasses import dataclass

from aiohttp import web

from servekit.enginesim.setup import engine_setup
from servekit.errors.tree import SettingInvalid
from servekit.fleet.fleet import Fleet, FleetReplica
from simulator.api import EngineApi
from simulator.replica import ReplicaSpec, SimulatedReplica
from simulator.vllm_version import VLLM_VERSION, VllmVersion


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    """How every replica of a fleet is simulated; the attributes are those of `ReplicaSpec`."""

    speed: float = 1.0
    seed: int = 0
    max_in_flight: int | None = None
    vllm_version: VllmVersion = VLLM_VERSION


DEFAULT_SETTINGS = SimulationSettings()


class ReplicaServer:
    """One replica and its listening socket."""

    def __init__(self, spec: ReplicaSpec, host: str, port: int) -> None:
        self.spec = spec
        self._host = host
        self._port = port
        self._restarting: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            SettingInvalid: the port cannot be used.
        """
        self.replica = SimulatedReplica(self.spec, asyncio.get_running_loop())
        app = EngineApi(self.replica, self._restart).application()
        # Without cancellation a client that left would be served to the end.
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        await self._listen()

    async def stop(self) -> None:
        if self._restarting:
            self._restarting.cancel()
        self.replica.restart()
        await self._runner.cleanup()

    async def _listen(self) -> None:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            listening = socket.create_server((self._host, self._port), family=family, backlog=1024)
        except OSError as error:
            raise SettingInvalid(
                f"replica {self.spec.name!r} cannot listen on {self._host}:{self._port}: "
                f"{error.strerror}; free the port, or use --ports auto for free ports"
            ) from error
        self._port = listening.getsockname()[1]
        self._site = web.SockSite(self._runner, listening)
        await self._site.start()

    def _restart(self, seconds: float) -> None:
        self._restarting = asyncio.create_task(self._come_back(seconds))

    async def _come_back(self, seconds: float) -> None:
        """Die, refuse connections for *seconds*, and listen again with nothing remembered."""
        # The request that asked for the restart is still answered.
        await asyncio.sleep(0.01)
        await self._site.stop()
        self.replica.restart()
        server = self._runner.server
        for connection in list(server.connections) if server else []:
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(seconds)
        await self._listen()


async def serve_fleet(servers: list[ReplicaServer], stop: asyncio.Event) -> None:
    """Wait for *stop*, then end every server."""
    await stop.wait()
    await stop_all(servers)


async def stop_all(servers: list[ReplicaServer]) -> None:
    await asyncio.gather(*(server.stop() for server in servers))


def replica_servers(
    fleet: Fleet,
    *,
    host: str | None,
    fixed_ports: bool,
    only: str | None = None,
    settings: SimulationSettings = DEFAULT_SETTINGS,
) -> list[ReplicaServer]:
    """Return a server, not started yet, for each replica of *fleet*.

    *only* names one replica, or a model whose replicas alone are wanted.

    Raises:
        SettingInvalid: no replica is left, or a model does not fit on its GPUs.
    """
    chosen = [replica for replica in fleet.replicas if only in (None, *_names(fleet, replica))]
    if not chosen:
        known = ", ".join(model.short_name for model in fleet.models)
        raise SettingInvalid(
            f"--only {only!r} is not a model or replica of the fleet; its models are {known}"
        )
    return [
        ReplicaServer(
            _spec(fleet, replica, settings, number),
            host or replica.host,
            replica.port if fixed_ports else 0,
        )
        for number, replica in enumerate(chosen)
    ]


def _names(fleet: Fleet, replica: FleetReplica) -> tuple[str, ...]:
    return replica.name, replica.model, fleet.model(replica.model).short_name


def _spec(
    fleet: Fleet, replica: FleetReplica, settings: SimulationSettings, number: int
) -> ReplicaSpec:
    model = fleet.model(replica.model)
    engine = engine_setup(model, replica.gpu)
    return ReplicaSpec(
        name=replica.name,
        model=model.name,
        max_model_len=engine.max_model_len,
        calibration=engine.calibration,
        options=engine.options,
        speed=settings.speed,
        seed=settings.seed + number,
        max_in_flight=settings.max_in_flight,
        vllm_version=settings.vllm_version,
    )
