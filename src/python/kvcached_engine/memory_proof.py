"""Whether an engine's GPU memory follows its load.  Pure.

A segment in /dev/shm and a log line "Successfully patched" prove nothing: KVCached 0.1.5 in vLLM
0.26 had both while 133 GB were allocated statically.  What cannot be had without KVCached is
memory that grows when prompts are read and is given back when they are answered.
"""

from dataclasses import dataclass
from math import ceil

GIB = 1024**3

# A load must exceed what KVCached maps in advance (up to 10 pages, 1.3 GB for an 8B model) and
# what it keeps as cached prefixes (KVCACHED_MAX_CACHED_TOKENS), and still fit on a shared card.
_LOAD_BYTES = 4 * GIB
_TIMES_KEPT = 3
_MOST_OF_LIMIT = 0.25

# Other engines of the card allocate meanwhile, and pages are larger than what is asked for.
_SHARE = 0.5

_PROMPT_TOKENS = 4096
# They hold the memory for 2 to 4 s; nvidia-smi takes some tenths of a second.
OUTPUT_TOKENS = 256


@dataclass(frozen=True, slots=True)
class ProofLoad:
    """The requests that memory is to follow.

    Attributes:
        kv_bytes: what their KV cache takes.
    """

    requests: int
    prompt_tokens: int
    kv_bytes: float


@dataclass(frozen=True, slots=True)
class MemoryCourse:
    """Used memory of the engine's GPUs before, under and after a load (bytes).

    Attributes:
        before: before the engine was started.
        capacity: what its KV cache may take, all in all; a static one is as large from the start.
        load_bytes: what the KV cache of the load takes.
        preallocated: what was mapped in advance when the load began.
    """

    before: int
    idle: int
    loaded: int
    released: int
    capacity: int
    load_bytes: float
    preallocated: int

    @property
    def idle_is_small(self) -> bool | None:
        """Whether less than the KV cache was allocated by the start; None where other engines of
        the card may have allocated the rest."""
        return True if self.idle - self.before < self.capacity else None


def proof_load(
    capacity_bytes: int, capacity_tokens: int, max_model_len: int, kept_tokens: int
) -> ProofLoad:
    """Return a load that an elastic KV cache of that capacity must grow for."""
    per_token = capacity_bytes / capacity_tokens
    wanted = max(_LOAD_BYTES / per_token, _TIMES_KEPT * max(kept_tokens, 0))
    tokens = min(wanted, _MOST_OF_LIMIT * capacity_tokens)
    prompt = max(1, min(_PROMPT_TOKENS, max_model_len - OUTPUT_TOKENS - 1))
    requests = max(1, ceil(tokens / prompt))
    return ProofLoad(requests, prompt, requests * prompt * per_token)


def has_grown(course: MemoryCourse) -> bool:
    """Whether memory grew with the load."""
    return course.loaded - course.idle >= _wanted(course)


def is_given_back(course: MemoryCourse) -> bool:
    """Whether at least half of what the load took was returned."""
    return course.released - course.idle <= _SHARE * (course.loaded - course.idle)


def disproof(course: MemoryCourse) -> str | None:
    """Return why memory does not follow the load; None where it does."""
    grown = course.loaded - course.idle
    if not has_grown(course):
        held = "" if course.idle_is_small else ": the KV cache is allocated statically"
        return (
            f"GPU memory grew by {_gib(grown)} under a load of {_gib(course.load_bytes)} of KV "
            f"cache (idle: {_gib(course.idle)} used, {_gib(course.idle - course.before)} since the "
            f"start){held}"
        )
    if not is_given_back(course):
        kept = _gib(course.released - course.idle)
        return f"GPU memory grew by {_gib(grown)} under load and {kept} of it was not given back"
    return None


def _wanted(course: MemoryCourse) -> float:
    return _SHARE * max(course.load_bytes - course.preallocated, _SHARE * course.load_bytes)


def _gib(count: float) -> str:
    return f"{count / GIB:.1f} GiB"
