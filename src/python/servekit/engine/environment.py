"""The environment that an engine is given.  Pure: both environments are values.

What reaches vLLM by accident costs: an API key in the environment changes the key of the compile
cache (a full recompile, measured on vLLM 0.26), a Kubernetes service named `vllm` sets VLLM_PORT to
a URI, and retired variables are warned about or refused.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from servekit.secrets.masking import masked
from servekit.secrets.names import is_plain_value, is_secret_name

# Variables that vLLM no longer knows, and what says the same today.
RETIRED = {
    "VLLM_TORCH_COMPILE_LEVEL": "--optimization-level",
    "VLLM_USE_V1": "nothing: the V1 engine is the only one",
}

# The engine serves on loopback from local files: it needs no credential of ours.
_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "VLLM_API_KEY")

# Folders by names that sound like passwords; and the fingerprint of who signed Python's sources,
# which its images have.
_PUBLIC = ("PWD", "OLDPWD", "GPG_KEY")

# These say where we run, change the key of the compile cache, and change nothing else.
_KEY_NOISE = ("VLLM_IMAGE_TAG", "VLLM_USAGE_SOURCE", "XDG_CONFIG_HOME")

# Of what stays, this changes the key of the compile cache (measured on vLLM 0.26), and so does
# every variable of vLLM's own but these (vLLM 0.32, envs.py, compile_factors).
_KEY_VARIABLES = frozenset({"CUDA_HOME", "HOME"})
_OUTSIDE_THE_KEY = frozenset(
    {
        "VLLM_CACHE_ROOT",
        "VLLM_CUDA_COMPATIBILITY_PATH",
        "VLLM_ENABLE_CUDA_COMPATIBILITY",
        "VLLM_ENABLE_STARTUP_PLAN",
        "VLLM_HOST_IP",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE",
        "VLLM_LOGGING_COLOR",
        "VLLM_LOGGING_LEVEL",
        "VLLM_LOGGING_PREFIX",
        "VLLM_NO_USAGE_STATS",
        "VLLM_PORT",
    }
)

# Kubernetes describes a service this way: VLLM_PORT=tcp://10.0.0.7:8000.
_SERVICE_URI = re.compile(r"(tcp|udp|sctp)://")


@dataclass(frozen=True, slots=True)
class EngineFolders:
    """Where an engine keeps things.

    Attributes:
        cache: holds every cache of vLLM, torch and Triton, so that it can be kept as one.
        home: the engine's HOME; the same at capture and restore of a cache, or it is not found.
    """

    cache: PurePosixPath
    home: PurePosixPath


def engine_environment(
    environ: Mapping[str, str],
    folders: EngineFolders,
    warn: Callable[[str], None],
    *,
    allowed: Collection[str] = (),
) -> dict[str, str]:
    """Return *environ* without what must not reach an engine, and with its folders.

    A variable that holds a secret reaches it only if *allowed* names it.  *warn* is told of every
    variable that someone may have counted on.
    """
    kept = {}
    for name, value in environ.items():
        reason = _reason_to_drop(name, value, allowed)
        if reason is None:
            kept[name] = value
        elif reason:
            warn(f"{name} is not passed to the engine: {reason}")
    return {**_DEFAULTS, **kept, **_folders(folders)}


def compile_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what of an engine's environment is part of its compile cache's key."""
    return {
        name: value
        for name, value in sorted(environ.items())
        if name in _KEY_VARIABLES or (name.startswith("VLLM_") and name not in _OUTSIDE_THE_KEY)
    }


def holds_secret(name: str, value: str) -> bool:
    """Return whether an environment's variable holds a secret, by its name or as a URL does.

    vLLM's own are told by their names: many speak of tokens, and one is a key.
    """
    if name in _PUBLIC or not value:
        return False
    if name.startswith("VLLM_"):
        return name in _SECRETS
    if "://" in value and "@" in value and masked(value) != value:
        return True
    return is_secret_name(name) and not is_plain_value(name, value)


def _reason_to_drop(name: str, value: str, allowed: Collection[str]) -> str | None:
    """None to keep the variable, an empty string to drop it silently."""
    if name in RETIRED:
        return f"vLLM has retired it; use {RETIRED[name]}"
    if name in _SECRETS or name in _KEY_NOISE:
        return ""
    if name not in allowed and holds_secret(name, value):
        return "it holds a secret; name it in ENGINE_SECRETS if the engine needs it"
    if name.startswith("VLLM_") and _SERVICE_URI.match(value):
        return "it describes a Kubernetes service; set enableServiceLinks: false"
    return None


_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    # Skips memory profiling where an earlier start left its result: 2 to 4 s (vLLM 0.26, H200).
    "VLLM_ENABLE_STARTUP_PLAN": "1",
}


def _folders(folders: EngineFolders) -> dict[str, str]:
    return {
        "HOME": str(folders.home),
        "VLLM_CACHE_ROOT": str(folders.cache),
        # A start that finds vLLM's cache looks for Triton's kernels in ~/.triton, and not where the
        # compiling start left them: 10 s, unless both are told the same folder.
        "TRITON_CACHE_DIR": str(folders.cache / "triton"),
    }
