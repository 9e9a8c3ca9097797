"""What the program reads from its environment, and how vLLM is called.  Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kvcached_engine.versions import InstalledVersions, runner_environ
from servekit.errors.tree import SettingInvalid
from servekit.secrets.secret import Secret
from servekit.settings.environment import Settings

# What `vllm serve` takes where nothing is said.
_DEFAULT_PORT = 8000

# Of a name in /dev/shm; KVCached would replace other characters, and look elsewhere than we do.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class KVCachedSettings(Settings, frozen=True):
    """Attributes:
    enable_kvcached: false for the same image, and the same vLLM, without it.
    kvcached_ipc_name: of the segment in /dev/shm; each engine of a host has its own.
    kvcached_metrics_port: of /health and /metrics; 0 takes a free one.
    kvcached_proof_timeout_s: how long the segment may be missing after the engine's first answer,
        and how long engines that share a GPU may take to prove themselves one after another.
    kvcached_max_cached_tokens: KVCached's own, which keeps so many tokens as cached prefixes.
    vllm_api_key: vLLM's own, for the requests of the proof.
    engine_startup_timeout_s: a model of 93 GB is downloaded in a quarter of an hour.
    """

    enable_kvcached: bool = True
    kvcached_ipc_name: str = "kvcached_vllm"
    kvcached_metrics_host: str = "0.0.0.0"  # noqa: S104 a container's own network
    kvcached_metrics_port: int = 9410
    kvcached_proof_timeout_s: float = 120.0
    kvcached_max_cached_tokens: int = 16_000
    vllm_api_key: Secret = Secret()
    engine_startup_timeout_s: float = 2400.0


@dataclass(frozen=True, slots=True)
class Serving:
    """One call of `vllm serve`.

    Attributes:
        arguments: all that comes after `serve`.
        port: where it will listen.
    """

    arguments: tuple[str, ...]
    port: int


def check_name(name: str) -> str:
    """Return *name*.

    Raises:
        SettingInvalid: it cannot name a segment.
    """
    if not _NAME.fullmatch(name):
        raise SettingInvalid(
            f"KVCACHED_IPC_NAME is {name!r}; it has 1 to 64 letters, digits, - and _"
        )
    return name


def read_serving(arguments: Sequence[str]) -> Serving:
    """Return the call that *arguments* mean: with or without `serve`, the model with or without
    `--model`.

    Raises:
        SettingInvalid: no model is named, or the port is no number.
    """
    rest = list(arguments[1:] if arguments[:1] == ("serve",) else arguments)
    if "--model" in rest[:-1]:
        at = rest.index("--model")
        rest = [rest[at + 1], *rest[:at], *rest[at + 2 :]]
    if not rest or rest[0].startswith("-"):
        raise SettingInvalid(
            "no model is named; give it first: serve MODEL [what vllm serve takes]"
        )
    return Serving(tuple(rest), _port(rest))


def _port(arguments: Sequence[str]) -> int:
    text = str(_DEFAULT_PORT)
    for name, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if name == "--port":
            text = value
        elif name.startswith("--port="):
            text = name.removeprefix("--port=")
    if not text.isdigit():
        raise SettingInvalid(f"--port is {text!r}; it is a number such as 8000")
    return int(text)


def engine_environ(
    environ: Mapping[str, str], settings: KVCachedSettings, installed: InstalledVersions
) -> dict[str, str]:
    """Return the environment of the engine: KVCached is on or off, and never half of it.

    Raises:
        SettingInvalid: the versions are known not to work together.
    """
    state = "true" if settings.enable_kvcached else "false"
    # Without KVCached as well, or the two arms of a comparison would differ in their runner.
    runner = runner_environ(
        installed if settings.enable_kvcached else InstalledVersions(vllm=installed.vllm), environ
    )
    return {
        **environ,
        **runner,
        "ENABLE_KVCACHED": state,
        # Without it KVCached is installed, enabled, and has no part in anything.
        "KVCACHED_AUTOPATCH": state,
        "KVCACHED_IPC_NAME": settings.kvcached_ipc_name,
    }
