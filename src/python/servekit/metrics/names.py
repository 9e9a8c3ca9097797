"""Every vLLM metric that we read, in one place.

tests/golden holds what each vLLM release exposes, and a test finds each of these names there: a
stale name never fails by itself, its value just goes missing.  Counters are named as the
exposition names them, with `_total`.
"""

NUM_REQUESTS_RUNNING = "vllm:num_requests_running"
NUM_REQUESTS_WAITING = "vllm:num_requests_waiting"
KV_CACHE_USAGE = "vllm:kv_cache_usage_perc"
PREFIX_CACHE_QUERIES = "vllm:prefix_cache_queries_total"
PREFIX_CACHE_HITS = "vllm:prefix_cache_hits_total"
NUM_PREEMPTIONS = "vllm:num_preemptions_total"
PROMPT_TOKENS = "vllm:prompt_tokens_total"
GENERATION_TOKENS = "vllm:generation_tokens_total"
CACHE_CONFIG = "vllm:cache_config_info"

CURRENT = (
    NUM_REQUESTS_RUNNING,
    NUM_REQUESTS_WAITING,
    KV_CACHE_USAGE,
    PREFIX_CACHE_QUERIES,
    PREFIX_CACHE_HITS,
    NUM_PREEMPTIONS,
    PROMPT_TOKENS,
    GENERATION_TOKENS,
    CACHE_CONFIG,
)

# What a name was called before, in engines that are still out there.
FORMER = {
    # vLLM's V0 engine, and V1 until 0.11.
    "vllm:gpu_cache_usage_perc": KV_CACHE_USAGE,
}
