"""The 2x2 of engine (fixed shares, KVCached) and load balancer, in virtual time.  Pure.

What is compared on a machine, is predicted here first: the same schedule in the same parts, each
with empty prefix caches, all engines of a GPU sharing its time, and its memory in fixed shares or
elastically.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from bench.fleetsim.scenario import ReplicaSetup, Scenario
from bench.fleetsim.world import World
from bench.loadgen.record import Record
from bench.stats.factorial import CELLS
from bench.twin.fleet_run import arrivals_of, records_of, setups_of
from bench.workload.schedule import Part
from servekit.enginesim.engine_args import read_engine_args
from servekit.enginesim.hardware import GPUS
from servekit.enginesim.setup import engine_setup
from servekit.errors.tree import SettingInvalid
from servekit.fleet.fleet import Fleet, FleetModel
from servekit.routing.registry import policy_named

POLICIES = ("round-robin", "latency")

# Of a GPU's memory, what KVCached lets all engines together have (KVCACHED_GPU_UTILIZATION).
ELASTIC_SHARE = 0.95

# With KVCached an engine may take all that the others leave.
_UTILIZATION = 0.92


@dataclass(frozen=True, slots=True)
class EngineGrid:
    """Both kinds of engine of one fleet.

    Attributes:
        shared_bytes: KV-cache memory that the engines of a GPU share with KVCached.
        static_tokens: what the KV caches of each model's engines hold with fixed shares.
    """

    static: tuple[ReplicaSetup, ...]
    elastic: tuple[ReplicaSetup, ...]
    shared_bytes: float
    static_tokens: dict[str, int]


def engine_grid(fleet: Fleet) -> EngineGrid:
    """Return the engines of *fleet*, whose replicas share one GPU.

    Raises:
        SettingInvalid: they use several GPUs, or an argument is not simulated.
    """
    gpus = {(replica.host, gpu) for replica in fleet.replicas for gpu in replica.gpus}
    kinds = {replica.gpu for replica in fleet.replicas}
    if len(gpus) != 1 or len(kinds) != 1:
        raise SettingInvalid(f"the fleet uses {len(gpus)} GPUs; engines of one GPU are simulated")
    (kind,) = kinds
    memory = GPUS[kind].memory_bytes
    static = tuple(replace(one, card="gpu") for one in setups_of(fleet))
    elastic, taken = [], 0.0
    for setup in static:
        model = _elastic(fleet.model(setup.model))
        engine = engine_setup(model, kind)
        alone = engine.calibration.kv_cache_tokens * engine.kv_bytes_per_token
        taken += _UTILIZATION * memory - alone
        elastic.append(
            replace(
                setup,
                calibration=engine.calibration,
                options=engine.options,
                shares="gpu",
                kv_bytes_per_token=engine.kv_bytes_per_token,
            )
        )
    return EngineGrid(
        static=static,
        elastic=tuple(elastic),
        shared_bytes=ELASTIC_SHARE * memory - taken,
        static_tokens={one.name: one.calibration.kv_cache_tokens for one in static},
    )


def predicted_records(
    grid: EngineGrid, parts: Sequence[Part], seed: int, policies: Sequence[str] = POLICIES
) -> list[Record]:
    """Return what each cell of the design, named as in CELLS, makes of *parts*."""
    found: list[Record] = []
    rows = ((grid.static, 0.0), (grid.elastic, grid.shared_bytes))
    arms = [(setups, shared, policy) for setups, shared in rows for policy in policies]
    for cell, (setups, shared, policy) in zip(CELLS, arms, strict=True):
        scenario = Scenario(setups, shared_bytes=shared, seed=seed)
        for part in parts:
            found += _of_part(scenario, policy, part, cell)
    return found


def _of_part(scenario: Scenario, policy: str, part: Part, cell: str) -> list[Record]:
    calls = [msgspec.structs.replace(call, at_s=call.at_s - part.start_s) for call in part.calls]

    world = World(scenario, lambda rng: policy_named(policy, rng), keep_tokens=True)
    outcome = world.run(arrivals_of(calls))
    places = [(part.number, call.at_s) for call in calls]
    return records_of(calls, outcome, cell, places)


def _elastic(model: FleetModel) -> FleetModel:
    """Return *model* without a KV cache of fixed size."""
    kept: list[str] = []
    words = iter(model.engine_args)
    for word in words:
        if word == "--kv-cache-memory-bytes":
            next(words, None)
        else:
            kept.append(word)
    read_engine_args(kept)
    return msgspec.structs.replace(
        model, engine_args=tuple(kept), gpu_memory_utilization=_UTILIZATION
    )
