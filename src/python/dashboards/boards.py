"""The dashboards of the LLaMA platform: engines, GPUs, load balancer, chat.  Pure."""

from dashboards.board import Dashboard, LabelMenu, Panel, PanelRow, Query, quantiles

_OF_MODEL = '{model_name=~"$model"}'


def _rate(counter: str, by: str, selector: str = "") -> str:
    return f"sum by ({by}) (rate({counter}{selector}[$__rate_interval]))"


def _rate_of_all(counter: str) -> str:
    return f"sum(rate({counter}[$__rate_interval]))"


def _per_model(gauge: str) -> str:
    return f"sum by (model_name) ({gauge}{_OF_MODEL})"


ENGINES = Dashboard(
    "servekit-engines",
    "Model servers",
    "What vLLM says of itself: who waits, how long the first token takes, how full the cache is.",
    (
        PanelRow(
            "Queue",
            (
                Panel(
                    "Requests",
                    "short",
                    (
                        Query(_per_model("vllm:num_requests_waiting"), "waiting {{model_name}}"),
                        Query(_per_model("vllm:num_requests_running"), "running {{model_name}}"),
                    ),
                    "Waiting ones are what autoscaling counts; the alert QueueDeep rings above 16.",
                ),
                Panel(
                    "KV cache in use",
                    "percentunit",
                    (Query(f"max by (pod) (vllm:kv_cache_usage_perc{_OF_MODEL})", "{{pod}}"),),
                    "Full, the engine preempts: it forgets a request and begins it again.",
                    most=1.0,
                    worrying=0.95,
                ),
                Panel(
                    "Time in the queue",
                    "s",
                    quantiles("vllm:request_queue_time_seconds", "model_name", _OF_MODEL),
                ),
                Panel(
                    "Preemptions",
                    "reqps",
                    (
                        Query(
                            _rate("vllm:num_preemptions_total", "model_name", _OF_MODEL),
                            "{{model_name}}",
                        ),
                    ),
                    "Work that is done twice.  More than now and then: a smaller --max-num-seqs.",
                ),
            ),
        ),
        PanelRow(
            "Latency",
            (
                Panel(
                    "Time to first token",
                    "s",
                    quantiles("vllm:time_to_first_token_seconds", "model_name", _OF_MODEL),
                    "The promise is 2.5 s for 95 of 100 (rules.yaml).",
                    worrying=2.5,
                ),
                Panel(
                    "First tokens that are late",
                    "percentunit",
                    (Query(f"model:ttft_slow:ratio_rate5m{_OF_MODEL}", "{{model_name}}"),),
                    "Share beyond 2.5 s, over five minutes.  Above 5 % the month's budget burns.",
                    worrying=0.05,
                ),
                Panel(
                    "Time between tokens",
                    "s",
                    quantiles("vllm:inter_token_latency_seconds", "model_name", _OF_MODEL),
                ),
                Panel(
                    "Whole requests",
                    "s",
                    quantiles("vllm:e2e_request_latency_seconds", "model_name", _OF_MODEL),
                ),
            ),
        ),
        PanelRow(
            "Throughput",
            (
                Panel(
                    "Tokens per second",
                    "short",
                    (
                        Query(
                            _rate("vllm:generation_tokens_total", "model_name", _OF_MODEL),
                            "written {{model_name}}",
                        ),
                        Query(
                            _rate("vllm:prompt_tokens_total", "model_name", _OF_MODEL),
                            "read {{model_name}}",
                        ),
                    ),
                ),
                Panel(
                    "Requests that ended",
                    "reqps",
                    (
                        Query(
                            _rate("vllm:request_success_total", "finished_reason", _OF_MODEL),
                            "{{finished_reason}}",
                        ),
                    ),
                    "stop: the model was done; length: max_tokens cut it; abort: the caller left.",
                ),
                Panel(
                    "Prompt tokens found in the prefix cache",
                    "percentunit",
                    (
                        Query(
                            _rate("vllm:prefix_cache_hits_total", "model_name", _OF_MODEL)
                            + " / "
                            + _rate("vllm:prefix_cache_queries_total", "model_name", _OF_MODEL),
                            "{{model_name}}",
                        ),
                    ),
                    most=1.0,
                ),
                Panel(
                    "Model servers that answer",
                    "short",
                    (Query('sum(up{job="llama-model-server"})', "up"),),
                ),
            ),
        ),
    ),
    (LabelMenu("model", "vllm:num_requests_running", "model_name"),),
)


def _per_gpu(field: str, over: str = "max") -> Query:
    expr = f'{over} by (Hostname, gpu) ({field}{{Hostname=~"$node"}})'
    return Query(expr, "{{Hostname}}/{{gpu}}")


GPUS = Dashboard(
    "servekit-gpus",
    "GPUs",
    "What NVIDIA's DCGM exporter reads from each GPU.",
    (
        PanelRow(
            "Use",
            (
                Panel(
                    "Time with work",
                    "percent",
                    (_per_gpu("DCGM_FI_DEV_GPU_UTIL"),),
                    "Near 100 from the first request on: it does not say how many more would fit.",
                    most=100,
                ),
                Panel(
                    "Memory in use",
                    "percentunit",
                    (
                        Query(
                            "max by (Hostname, gpu) "
                            '(DCGM_FI_DEV_FB_USED{Hostname=~"$node"} / '
                            '(DCGM_FI_DEV_FB_USED{Hostname=~"$node"} '
                            '+ DCGM_FI_DEV_FB_FREE{Hostname=~"$node"}))',
                            "{{Hostname}}/{{gpu}}",
                        ),
                    ),
                    "vLLM takes its share at the start and keeps it.",
                    most=1.0,
                ),
            ),
        ),
        PanelRow(
            "Health",
            (
                Panel(
                    "Temperature",
                    "celsius",
                    (_per_gpu("DCGM_FI_DEV_GPU_TEMP"),),
                    "A T4 slows down at 85 °C and shuts off at 96 °C.",
                    worrying=83,
                ),
                Panel("Power", "watt", (_per_gpu("DCGM_FI_DEV_POWER_USAGE"),)),
                Panel(
                    "Clock of the processors",
                    "rotmhz",
                    (_per_gpu("DCGM_FI_DEV_SM_CLOCK", "min"),),
                    "It falls where the GPU is too hot or short of power.",
                ),
                Panel(
                    "Last Xid",
                    "none",
                    (_per_gpu("DCGM_FI_DEV_XID_ERRORS"),),
                    "0 is none; 48, 63, 64, 79, 94 and 95 mean broken hardware.",
                    worrying=1,
                ),
            ),
        ),
    ),
    (LabelMenu("node", "DCGM_FI_DEV_GPU_UTIL", "Hostname"),),
)

CHAT = Dashboard(
    "servekit-chat",
    "Chat",
    "What people who chat see: answers, refusals, and how long they waited.",
    (
        PanelRow(
            "Chats",
            (
                Panel(
                    "Chats by how they ended",
                    "reqps",
                    (Query(_rate("llama_chat_requests_total", "status"), "{{status}}"),),
                    "The codes are those of the backend's README.",
                ),
                Panel(
                    "Chats that fail",
                    "percentunit",
                    (
                        Query(
                            "(sum(rate(http_requests_total"
                            '{endpoint="/chat", status=~"5.."}[$__rate_interval]))'
                            # Before the first failure there is no such series.
                            " or vector(0)) / sum(rate(http_requests_total"
                            '{endpoint="/chat"}[$__rate_interval]))',
                            "5xx",
                        ),
                    ),
                    worrying=0.05,
                ),
                Panel(
                    "Time to the first text",
                    "s",
                    quantiles("llama_chat_time_to_first_token_seconds"),
                    "As the backend sees it, of streamed answers.",
                ),
                Panel("Whole chats", "s", quantiles("llama_chat_duration_seconds")),
            ),
        ),
        PanelRow(
            "Traffic",
            (
                Panel(
                    "Tokens per second",
                    "short",
                    (
                        Query(_rate_of_all("llama_tokens_generated_total"), "written"),
                        Query(_rate_of_all("llama_tokens_prompt_total"), "read"),
                    ),
                ),
                Panel("Streams under way", "short", (Query("sum(llama_chat_streams)", "streams"),)),
                Panel(
                    "Requests",
                    "reqps",
                    (
                        Query(
                            _rate("http_requests_total", "endpoint, status"),
                            "{{endpoint}} {{status}}",
                        ),
                    ),
                ),
                Panel(
                    "Time of a request",
                    "s",
                    quantiles("http_request_duration_seconds", "endpoint", shares=(0.95,)),
                ),
            ),
        ),
    ),
)

BALANCER = Dashboard(
    "servekit-loadbalancer",
    "Load balancer",
    "Where requests went, why, and what that took.",
    (
        PanelRow(
            "Replicas",
            (
                Panel(
                    "Requests by replica",
                    "reqps",
                    (Query(_rate("servekit_lb_requests_total", "replica"), "{{replica}}"),),
                ),
                Panel(
                    "In flight",
                    "short",
                    (Query("sum by (replica) (servekit_lb_in_flight)", "{{replica}}"),),
                ),
                Panel(
                    "Replicas that may be chosen",
                    "short",
                    (Query("sum by (replica) (servekit_lb_healthy)", "{{replica}}"),),
                    most=1,
                ),
                Panel(
                    "Ejections",
                    "reqps",
                    (Query(_rate("servekit_lb_ejections_total", "replica"), "{{replica}}"),),
                    "Times that a replica was taken out because its requests failed.",
                ),
            ),
        ),
        PanelRow(
            "Requests",
            (
                Panel("First byte", "s", quantiles("servekit_lb_ttft_seconds")),
                Panel(
                    "Own work per request",
                    "s",
                    quantiles("servekit_lb_overhead_seconds"),
                    "What this hop costs.",
                ),
                Panel(
                    "Why a replica was chosen",
                    "reqps",
                    (
                        Query(
                            _rate("servekit_lb_decisions_total", "policy, reason"),
                            "{{policy}}: {{reason}}",
                        ),
                    ),
                ),
                Panel(
                    "Waiting here for room",
                    "short",
                    (Query("sum by (model) (servekit_lb_waiting)", "{{model}}"),),
                    "Only with --most-in-flight.",
                ),
                Panel(
                    "Outcomes",
                    "reqps",
                    (Query(_rate("servekit_lb_requests_total", "outcome"), "{{outcome}}"),),
                ),
                Panel(
                    "Errors answered here",
                    "reqps",
                    (Query(_rate("servekit_lb_refusals_total", "status"), "{{status}}"),),
                    "No engine saw these requests, or none could answer them.",
                ),
            ),
        ),
    ),
)

BOARDS = (ENGINES, GPUS, BALANCER, CHAT)
