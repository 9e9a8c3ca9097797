"""Flags of `vllm serve` that are gone, and what says the same today.  Pure.

vLLM ends with "unrecognized arguments" when it is given one: an old deployment is translated, and
told.  A test holds both sides to the captured `serve --help`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Retired:
    """A flag that vLLM no longer takes.

    Attributes:
        takes_value: whether a word belonged to it.
        instead: what to pass on, by the value it had; `""` is for every other value.
        why: for whoever set it.
    """

    takes_value: bool
    why: str
    instead: dict[str, tuple[str, ...]] | None = None


_POOLING = ("--runner", "pooling")

RETIRED_FLAGS = {
    # Gone since 0.18; the V1 engine computes again what it had to drop.
    "--swap-space": Retired(
        True, "a preempted request is computed again; --kv-offloading-size keeps blocks in memory"
    ),
    "--task": Retired(
        True,
        "it is --runner and --convert now",
        {
            "": (),
            "generate": ("--runner", "generate"),
            "embed": (*_POOLING, "--convert", "embed"),
            "embedding": (*_POOLING, "--convert", "embed"),
            "classify": (*_POOLING, "--convert", "classify"),
        },
    ),
    "--device": Retired(True, "which device it is was decided when vLLM was built"),
    "--disable-log-requests": Retired(False, "requests are logged with --enable-log-requests only"),
    "--use-v2-block-manager": Retired(False, "there is one block manager"),
    "--worker-use-ray": Retired(
        False,
        "it is --distributed-executor-backend now",
        {"": ("--distributed-executor-backend", "ray")},
    ),
    "--num-scheduler-steps": Retired(True, "the V1 engine schedules ahead by itself"),
    "--preemption-mode": Retired(True, "a preempted request is computed again"),
    "--max-seq-len-to-capture": Retired(True, "graphs are captured by batch size"),
}


def translate_retired(words: Sequence[str], warn: Callable[[str], None]) -> tuple[str, ...]:
    """Return *words*, arguments of `vllm serve`, without those that are gone; *warn* hears of each.

    `--flag value` and `--flag=value` are understood, with `_` for `-` as vLLM takes it.
    """
    return tuple(_translated(iter(words), warn))


def _translated(words: Iterator[str], warn: Callable[[str], None]) -> Iterator[str]:
    for word in words:
        name, equals, value = word.partition("=")
        flag = name.replace("_", "-")
        retired = RETIRED_FLAGS.get(flag)
        if retired is None:
            yield word
            continue
        if retired.takes_value and not equals:
            value = next(words, "")
        said = _instead(retired, value)
        warn(f"vLLM has no {flag} any more: {retired.why}; {_done(said)}")
        yield from said


def _instead(retired: Retired, value: str) -> tuple[str, ...]:
    if not retired.instead:
        return ()
    return retired.instead.get(value, retired.instead.get("", ()))


def _done(said: Sequence[str]) -> str:
    return f"{' '.join(said)} is passed on" if said else "it is left out"
