"""vLLM's /metrics -> the load of one engine.  Pure."""

from dataclasses import dataclass

from servekit.metrics import names
from servekit.metrics.exposition import samples

_WANTED = frozenset(names.CURRENT) | names.FORMER.keys()


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """Work one engine holds, from a single scrape.  What the scrape did not say is None.

    Attributes:
        running: requests in the batch (count).
        waiting: requests queued and not yet scheduled (count).
        kv_usage: share of KV-cache blocks in use, 0.0 to 1.0.
        prefix_queries: prompt tokens looked up in the prefix cache since start.
        prefix_hits: prompt tokens found in the prefix cache since start.
        preemptions: sequences preempted since start.
        prompt_tokens: prompt tokens prefilled since start.
        generation_tokens: tokens generated since start.
        kv_tokens: tokens that the KV cache holds when it is full.
    """

    running: int | None = None
    waiting: int | None = None
    kv_usage: float | None = None
    prefix_queries: int | None = None
    prefix_hits: int | None = None
    preemptions: int | None = None
    prompt_tokens: int | None = None
    generation_tokens: int | None = None
    kv_tokens: int | None = None


def read_engine_load(text: str, model: str | None = None) -> EngineLoad:
    """Return the load in *text*, a /metrics body, summed over the `engine` label.

    KV usage is the mean over engines.  With *model*, other models' samples are left out.

    Raises:
        MetricsInvalid: a line that we need is malformed.
    """
    found: dict[str, list[float]] = {}
    kv_tokens: int | None = None
    for sample in samples(text, _WANTED):
        if sample.name == names.CACHE_CONFIG:
            kv_tokens = _add(kv_tokens, _kv_tokens(sample.labels))
        elif model is None or sample.labels.get("model_name", model) == model:
            found.setdefault(names.FORMER.get(sample.name, sample.name), []).append(sample.value)
    usage = found.get(names.KV_CACHE_USAGE)
    return EngineLoad(
        running=_total(found, names.NUM_REQUESTS_RUNNING),
        waiting=_total(found, names.NUM_REQUESTS_WAITING),
        kv_usage=sum(usage) / len(usage) if usage else None,
        prefix_queries=_total(found, names.PREFIX_CACHE_QUERIES),
        prefix_hits=_total(found, names.PREFIX_CACHE_HITS),
        preemptions=_total(found, names.NUM_PREEMPTIONS),
        prompt_tokens=_total(found, names.PROMPT_TOKENS),
        generation_tokens=_total(found, names.GENERATION_TOKENS),
        kv_tokens=kv_tokens,
    )


def _kv_tokens(labels: dict[str, str]) -> int | None:
    """Return the size of one engine's cache; vLLM tells its configuration in labels."""
    blocks, tokens = labels.get("num_gpu_blocks", ""), labels.get("block_size", "")
    return int(blocks) * int(tokens) if blocks.isdecimal() and tokens.isdecimal() else None


def _add(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else one + other


def _total(found: dict[str, list[float]], name: str) -> int | None:
    values = found.get(name)
    if not values:
        return None
    total = sum(values)
    # NaN and infinity are legal in an exposition and mean nothing as a count.
    return int(total) if abs(total) < float("inf") else None
