"""The arms of a comparison: two upstreams, or two fleets of our own.  Input and output."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec

from bench.target.processes import Program
from servekit.client.client import Client
from servekit.errors.tree import EngineUnreachable, RequestInvalid, SettingInvalid
from servekit.launch.modules import require_module
from servekit.timing.clock import SystemClock
from servekit.wire.openai import ModelCard, read_models

# The ports of the seeds' two environments.
ENVIRONMENTS = {"baseline": "http://127.0.0.1:8080", "managed": "http://127.0.0.1:8081"}

# An upstream that takes longer than this to say what it is cannot be measured.
_TIMEOUT_S = 10.0

# An engine holds a request for a moment after its last token was read.
_RESETS, _RESET_AGAIN_S = 40, 0.1

_REMEDY = "use --url, or --env with a running environment"


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a comparison.

    Attributes:
        url: where its requests go.
        replicas: its engines' URLs by name; empty where they are not known.
    """

    name: str
    url: str
    replicas: dict[str, str] = {}


def environment_url(env: str) -> str:
    """Return where the environment called *env* listens.

    Raises:
        SettingInvalid: there is none.
    """
    if env not in ENVIRONMENTS:
        known = ", ".join(ENVIRONMENTS)
        raise SettingInvalid(
            f"--env must be one of {known}, not {env!r}; use --url for other targets"
        )
    return ENVIRONMENTS[env]


def check_installed(balancers: Sequence[str]) -> None:
    """Raise unless *balancers*, and the simulator behind them, could be started.

    Raises:
        SettingInvalid: one of them is unknown or not installed.
    """
    for balancer in balancers:
        kind = _read(balancer)[0]
        if kind not in ENVIRONMENTS:
            raise SettingInvalid(f"load balancer must be 'baseline' or 'managed', not {kind!r}")
        require_module(f"loadbalancer.{kind}", _REMEDY)
    if balancers:
        require_module("simulator.main", _REMEDY)  # pants: no-infer-dep


def start_arms(
    balancers: Sequence[str], fleet: str, programs: list[Program], logs: Path
) -> tuple[Arm, ...]:
    """Start a simulated fleet and a load balancer for each of *balancers*; add them to *programs*.

    *balancers* are `name[:policy][@speed]`.  Each arm has engines of its own: a shared cache would
    let one arm live off the other's requests.

    Raises:
        EngineExited, EngineNotReady: a program did not start.
    """
    engines = [
        Program(
            f"simulator of {b}", _simulator(fleet, b), log=_log(logs, n, "simulator"), yields=True
        )
        for n, b in enumerate(balancers)
    ]
    programs += engines
    replicas: list[dict[str, str]] = [program.ready()["replicas"] for program in engines]
    fronts = [
        Program(
            f"load balancer {b}", _balancer(b, own), log=_log(logs, n, "loadbalancer"), yields=True
        )
        for n, (b, own) in enumerate(zip(balancers, replicas, strict=True))
    ]
    programs += fronts
    arms = [
        Arm(name=balancer, url=front.ready()["url"], replicas=own)
        for balancer, front, own in zip(balancers, fronts, replicas, strict=True)
    ]
    return tuple(distinct(arms))


def distinct(arms: Sequence[Arm]) -> list[Arm]:
    """Return *arms*, those of one name numbered: results are kept by name."""
    times = Counter(arm.name for arm in arms)
    numbers: Counter[str] = Counter()
    named = []
    for arm in arms:
        numbers[arm.name] += 1
        number = f" {numbers[arm.name]}" if times[arm.name] > 1 else ""
        named.append(msgspec.structs.replace(arm, name=arm.name + number))
    return named


def _read(balancer: str) -> tuple[str, str, str]:
    """Return kind, policy and speed; what is not given is empty."""
    rest, _, speed = balancer.partition("@")
    kind, _, policy = rest.partition(":")
    return kind, policy, speed


def _simulator(fleet: str, balancer: str) -> list[str]:
    speed = _read(balancer)[2]
    argv = ["simulator.main", "--fleet", fleet, "--ports", "auto"]  # pants: no-infer-dep
    return [*argv, "--speed", speed] if speed else argv


def _balancer(name: str, replicas: dict[str, str]) -> list[str]:
    kind, policy, _ = _read(name)
    # Named, so that answers say by name who served them.
    endpoints = ",".join(f"{name}={url}" for name, url in replicas.items())
    argv = [f"loadbalancer.{kind}", "--endpoints", endpoints, "--port", "0"]
    return [*argv, "--policy", policy] if policy else argv


def _log(folder: Path, number: int, program: str) -> Path:
    return folder / f"{number}-{program}.log"


async def model_limits(
    url: str, api_key: str = "", headers: Mapping[str, str] = MappingProxyType({})
) -> dict[str, int | None]:
    """Return the models at *url*, each with the tokens that a request may have; None if unsaid.

    Raises:
        EngineUnreachable: there is no answer, or not one of an OpenAI-compatible server.
        RequestInvalid: what answers is no list of models.
    """
    return {card.id: card.max_model_len for card in await model_cards(url, api_key, headers)}


async def model_cards(
    url: str, api_key: str = "", headers: Mapping[str, str] = MappingProxyType({})
) -> list[ModelCard]:
    """Return what the upstream at *url* says of the models that it serves.

    Raises:
        EngineUnreachable: there is no answer, or not one of an OpenAI-compatible server.
        RequestInvalid: what answers is no list of models.
    """
    status, body = await ask(url, "/v1/models", api_key, headers)
    if status == 0:
        raise EngineUnreachable(
            f"{url} cannot be reached ({body.decode()}); start it or correct --url"
        )
    if status != 200:
        raise EngineUnreachable(
            f"{url}/v1/models answered {status}; is it an OpenAI-compatible server?"
        )
    try:
        return read_models(body).data
    except RequestInvalid as error:
        raise RequestInvalid(f"{url}/v1/models: not a list of models: {error}") from error


async def reset_prefix_caches(arm: Arm) -> None:
    """Empty the prefix cache of every engine of *arm*: arms that share engines replay the same
    prompts, and the second one would find them cached.

    Raises:
        EngineUnreachable: an engine did not do it.
    """

    await asyncio.gather(*(_reset_prefix_cache(url) for url in arm.replicas.values()))


async def _reset_prefix_cache(url: str) -> None:
    client = Client(url, SystemClock(), timeout_s=_TIMEOUT_S)
    try:
        for _ in range(_RESETS):
            status, body = await client.post("/reset_prefix_cache")
            said = body.decode(errors="replace")[:100]
            if status != 200:
                raise EngineUnreachable(
                    f"{url}/reset_prefix_cache answered {status} ({said}); start vLLM with "
                    "VLLM_SERVER_DEV_MODE=1"
                )
            if '"success":false' not in said.replace(" ", ""):
                return
            await asyncio.sleep(_RESET_AGAIN_S)
        raise EngineUnreachable(
            f"{url}/reset_prefix_cache: the engine still holds requests; nothing else may use it"
        )
    finally:
        await client.aclose()


async def ask(
    url: str, path: str, api_key: str = "", headers: Mapping[str, str] = MappingProxyType({})
) -> tuple[int, bytes]:
    """Return status and body of a GET; status 0, and what went wrong, without an answer."""
    client = Client(url, SystemClock(), timeout_s=_TIMEOUT_S, api_key=api_key, headers=headers)
    try:
        return await client.get(path)
    finally:
        await client.aclose()
