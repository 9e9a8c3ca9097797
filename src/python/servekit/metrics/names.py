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

# Histograms of what a request spent where, in seconds.
TIME_TO_FIRST_TOKEN = "vllm:time_to_first_token_seconds"  # noqa: S105
E2E_REQUEST_LATENCY = "vllm:e2e_request_latency_seconds"
REQUEST_QUEUE_TIME = "vllm:request_queue_time_seconds"
REQUEST_PREFILL_TIME = "vllm:request_prefill_time_seconds"
REQUEST_DECODE_TIME = "vllm:request_decode_time_seconds"

REQUEST_TIMES = (
    TIME_TO_FIRST_TOKEN,
    E2E_REQUEST_LATENCY,
    REQUEST_QUEUE_TIME,
    REQUEST_PREFILL_TIME,
    REQUEST_DECODE_TIME,
)

# What a name was called before, in engines that are still out there.
FORMER = {
    # vLLM's V0 engine, and V1 until 0.11.
    "vllm:gpu_cache_usage_perc": KV_CACHE_USAGE,
}
