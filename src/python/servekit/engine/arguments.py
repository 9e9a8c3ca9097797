"""What we ask of a vLLM engine, and the command line that says it.  Pure.

    EngineArguments(model="/models/llama", port=8001).argv()
    ("serve", "/models/llama", "--host", "127.0.0.1", "--port", "8001")

Flags are those of vLLM 0.26 to 0.33; tests hold them to the captured `serve --help`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from servekit.errors.tree import SettingInvalid
from servekit.secrets.masking import masked

# Fields that decide nothing about what is compiled: where the engine listens, what it is called,
# how much it holds.  Measured on vLLM 0.26 (docs/benchmarks/coldstart.md): a compile cache is
# found again when any of these has changed.
_OUTSIDE_THE_COMPILE_KEY = frozenset(
    {
        "host",
        "port",
        "served_model_names",
        "max_num_seqs",
        "gpu_memory_utilization",
        "kv_cache_memory_bytes",
        "load_format",
        "max_num_queued_reqs",
        "shutdown_timeout",
        "extra",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineArguments:
    """One `vllm serve`.  None leaves a decision to vLLM.

    Attributes:
        model: a folder or a hub id.
        served_model_names: what clients may call it; the first is the one that answers carry.
        gpu_memory_utilization: share of the GPU's memory, above 0.0 and up to 1.0.
        kv_cache_memory_bytes: fixed size of the KV cache; takes precedence over the share.
        optimization_level: 0 compiles nothing, 1 to 3 compile more and more.
        convert: `embed` and others, for the runner `pooling`.
        shutdown_timeout: seconds that vLLM lets running requests finish after SIGTERM.
        extra: further arguments, passed on as they are.
    """

    model: str
    host: str = "127.0.0.1"
    port: int = 8000
    served_model_names: tuple[str, ...] = ()
    revision: str | None = None
    dtype: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_num_queued_reqs: int | None = None
    gpu_memory_utilization: float | None = None
    kv_cache_memory_bytes: int | None = None
    tensor_parallel_size: int | None = None
    optimization_level: int | None = None
    enforce_eager: bool = False
    enable_prefix_caching: bool | None = None
    enable_sleep_mode: bool = False
    runner: str | None = None
    convert: str | None = None
    load_format: str | None = None
    shutdown_timeout: int | None = None
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(self)

    def argv(self) -> tuple[str, ...]:
        """Return the arguments after `vllm`."""
        return ("serve", self.model, *self._flags(), *self.extra)

    def shown(self) -> str:
        """Return the command line for a log, without its secrets."""
        own = ("vllm", "serve", self.model, *self._flags())
        return " ".join((*own, *_shown(self.extra)))

    def compile_flags(self) -> tuple[str, ...]:
        """Return the part that decides what vLLM compiles, in a fixed order."""
        said = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in _OUTSIDE_THE_COMPILE_KEY
        }
        flags = [f"{name}={value}" for name, value in said.items() if value not in (None, False)]
        return (*sorted(flags), *_settled(self.extra))

    def _flags(self) -> Iterator[str]:
        for field in fields(self):
            if field.name not in ("model", "extra"):
                yield from _flag(_FLAGS.get(field.name, field.name), getattr(self, field.name))


_FLAGS = {"served_model_names": "served_model_name"}


def _flag(name: str, value: Any) -> Iterator[str]:
    flag = "--" + name.replace("_", "-")
    if value is None or value == ():
        return
    if name == "enable_prefix_caching" and value is False:
        yield "--no-enable-prefix-caching"
        return
    if isinstance(value, bool):
        if value:
            yield flag
        return
    yield flag
    yield from value if isinstance(value, tuple) else (str(value),)


def _settled(extra: tuple[str, ...]) -> tuple[str, ...]:
    # Nobody has measured what an arbitrary flag changes; to keep it is to be safe.
    return (f"extra={' '.join(_shown(extra))}",) if extra else ()


def _shown(extra: tuple[str, ...]) -> tuple[str, ...]:
    """What may be seen of arguments that we do not know: a URL among them may hold a password."""
    return (masked(" ".join(extra)),) if extra else ()


def _check(asked: EngineArguments) -> None:
    if not asked.model:
        raise SettingInvalid("no model is named; set MODEL_NAME to a hub id or a folder")
    if not 0 < asked.port < 65536:
        raise SettingInvalid(f"port {asked.port} does not exist; use 1 to 65535")
    share = asked.gpu_memory_utilization
    if share is not None and not 0 < share <= 1:
        raise SettingInvalid(f"gpu_memory_utilization is {share}; it is above 0 and up to 1")
    level = asked.optimization_level
    if level is not None and level not in range(4):
        raise SettingInvalid(f"optimization_level is {level}; it is 0, 1, 2 or 3")
    for name in ("max_model_len", "max_num_seqs", "max_num_batched_tokens", "tensor_parallel_size"):
        count = getattr(asked, name)
        if count is not None and count < 1:
            raise SettingInvalid(f"{name} is {count}; it is 1 or more, or unset")
