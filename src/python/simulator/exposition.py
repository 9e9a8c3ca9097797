"""/metrics of a simulated engine, in vLLM's names and labels.  Pure.

tests/golden/vllm has what vLLM exposes; a test finds each name and label set of this module there.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping

from servekit.enginesim.engine import SimulatedEngine
from servekit.enginesim.sequence import Sequence
from servekit.enginesim.step import EngineStep

# Bucket bounds as vLLM 0.32 has them.
_TTFT = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_PER_TOKEN = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0),
)
_REQUEST = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_STEP_TOKENS = (
    *(1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0),
    16384.0,
)


def _one_two_five(limit: int) -> tuple[float, ...]:
    """Bounds 1, 2, 5, 10, … up to *limit*, as vLLM's build_1_2_5_buckets."""
    bounds = []
    scale = 1
    while scale <= limit:
        bounds += [float(scale * step) for step in (1, 2, 5) if scale * step <= limit]
        scale *= 10
    return tuple(bounds)


class PrometheusHistogram:
    """Counts by upper bound."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def lines(self, name: str, labels: str) -> Iterable[str]:
        total = 0
        names = [*(str(bound) for bound in self._bounds), "+Inf"]
        for bound, count in zip(names, self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{engine="0",le="{bound}",{labels}}} {float(total)}'
        yield f'{name}_count{{engine="0",{labels}}} {float(total)}'
        yield f'{name}_sum{{engine="0",{labels}}} {self._sum}'


class EngineMetrics:
    """Everything that /metrics says beside the gauges: fed by each step and each finished request.

    Attributes:
        finished: requests by vLLM's finished_reason.
    """

    def __init__(self, max_model_len: int) -> None:
        tokens = _one_two_five(max_model_len)
        self.finished = {"stop": 0, "length": 0, "abort": 0, "error": 0, "repetition": 0}
        self._histograms = {
            "time_to_first_token_seconds": PrometheusHistogram(_TTFT),
            "inter_token_latency_seconds": PrometheusHistogram(_PER_TOKEN),
            "request_time_per_output_token_seconds": PrometheusHistogram(_PER_TOKEN),
            "e2e_request_latency_seconds": PrometheusHistogram(_REQUEST),
            "request_queue_time_seconds": PrometheusHistogram(_REQUEST),
            "request_inference_time_seconds": PrometheusHistogram(_REQUEST),
            "request_prefill_time_seconds": PrometheusHistogram(_REQUEST),
            "request_decode_time_seconds": PrometheusHistogram(_REQUEST),
            "request_prompt_tokens": PrometheusHistogram(tokens),
            "request_generation_tokens": PrometheusHistogram(tokens),
            "iteration_tokens_total": PrometheusHistogram(_STEP_TOKENS),
        }

    def count_step(self, step: EngineStep, seconds: float) -> None:
        """Count a step that took *seconds* as its sequences saw it."""
        histograms = self._histograms
        histograms["iteration_tokens_total"].observe(step.prefill_tokens + step.decoded)
        if step.decoded:
            histograms["inter_token_latency_seconds"].observe(seconds, step.decoded)
        for sequence in step.sampled:
            if sequence.emitted == 1 and not sequence.gone:
                waited = sequence.first_token_s - sequence.arrived_s
                histograms["time_to_first_token_seconds"].observe(waited)

    def count_finished(self, sequence: Sequence, now: float, reason: str) -> None:
        """Count a request whose last token came out at *now*."""
        self.finished[reason] += 1
        output = sequence.request.output_tokens
        decode_s = now - sequence.first_token_s
        self._observe("e2e_request_latency_seconds", now - sequence.arrived_s)
        self._observe("request_queue_time_seconds", sequence.admitted_s - sequence.arrived_s)
        self._observe("request_inference_time_seconds", now - sequence.admitted_s)
        self._observe("request_prefill_time_seconds", sequence.first_token_s - sequence.admitted_s)
        self._observe("request_decode_time_seconds", decode_s)
        self._observe("request_prompt_tokens", sequence.request.prompt_tokens)
        self._observe("request_generation_tokens", output)
        if output > 1:
            self._observe("request_time_per_output_token_seconds", decode_s / (output - 1))

    def _observe(self, name: str, value: float) -> None:
        self._histograms[name].observe(value)

    def render(
        self, engine: SimulatedEngine, model: str, now: float, said: Mapping[str, float]
    ) -> str:
        """Return the exposition.  *said* overrides gauges by name, for an engine that lies."""
        labels = f'model_name="{_escaped(model)}"'
        lines = [*_gauges(engine, labels, now, said), *_counters(engine, labels)]
        lines += _typed("request_success_total", "counter")
        lines += [
            f'vllm:request_success_total{{engine="0",finished_reason="{reason}",{labels}}} '
            f"{float(count)}"
            for reason, count in self.finished.items()
        ]
        for name, histogram in self._histograms.items():
            lines += _typed(name, "histogram")
            lines += histogram.lines(f"vllm:{name}", labels)
        lines += _cache_config(engine)
        return "\n".join(lines) + "\n"


def _gauges(
    engine: SimulatedEngine, labels: str, now: float, said: Mapping[str, float]
) -> list[str]:
    load = engine.load(now)
    waiting = said.get("waiting", float(load.waiting or 0))
    values = {
        "num_requests_running": said.get("running", float(load.running or 0)),
        "num_requests_waiting": waiting,
        "kv_cache_usage_perc": said.get("kv_usage", load.kv_usage or 0.0),
    }
    lines: list[str] = []
    for name, value in values.items():
        lines += _typed(name, "gauge")
        lines.append(f'vllm:{name}{{engine="0",{labels}}} {value}')
    lines += _typed("num_requests_waiting_by_reason", "gauge")
    for reason, value in (("capacity", waiting), ("deferred", 0.0)):
        lines.append(
            f'vllm:num_requests_waiting_by_reason{{engine="0",{labels},reason="{reason}"}} {value}'
        )
    return lines


def sleep_lines(model: str, level: int) -> str:
    """Return the lines of vllm:engine_sleep_state at a sleep *level*; 0 is awake."""
    labels = f'model_name="{_escaped(model)}"'
    states = ("awake", "weights_offloaded", "discard_all")
    lines = _typed("engine_sleep_state", "gauge") + [
        f'vllm:engine_sleep_state{{engine="0",{labels},sleep_state="{state}"}} '
        f"{float(number == level)}"
        for number, state in enumerate(states)
    ]
    return "\n".join(lines) + "\n"


def _counters(engine: SimulatedEngine, labels: str) -> list[str]:
    counters = engine.counters
    load = engine.load()
    values = {
        "prefix_cache_queries_total": counters.prefix_queries,
        "prefix_cache_hits_total": counters.prefix_hits,
        "num_preemptions_total": counters.preemptions,
        "prompt_tokens_total": counters.prompt_tokens,
        "prompt_tokens_cached_total": counters.prefix_hits,
        "generation_tokens_total": load.generation_tokens or 0,
    }
    lines: list[str] = []
    for name, value in values.items():
        lines += _typed(name, "counter")
        lines.append(f'vllm:{name}{{engine="0",{labels}}} {float(value)}')
    lines += _typed("admission_rejections_total", "counter")
    for reason, value in (("max_num_queued_reqs", counters.refused), ("max_num_queued_tokens", 0)):
        lines.append(
            f'vllm:admission_rejections_total{{{labels},reason="{reason}"}} {float(value)}'
        )
    return lines


def _cache_config(engine: SimulatedEngine) -> list[str]:
    """vLLM puts its cache settings into labels; those that mean something here are true."""
    config = engine.config
    known = {
        "block_size": str(config.block_size),
        "enable_prefix_caching": str(config.prefix_caching),
        "num_gpu_blocks": str(engine.pool.total),
        "kv_cache_size_tokens": str(engine.pool.total * config.block_size),
    }
    labels = ",".join(f'{name}="{known.get(name, value)}"' for name, value in _CACHE_CONFIG.items())
    return [*_typed("cache_config_info", "gauge"), f"vllm:cache_config_info{{{labels}}} 1.0"]


def _typed(name: str, kind: str) -> list[str]:
    return [f"# TYPE vllm:{name} {kind}"]


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


_CACHE_CONFIG = {
    "_block_size_resolved": "True",
    "block_size": "",
    "cache_dtype": "auto",
    "cache_hit_alignment_tokens": "None",
    "effective_attention_block_size": "None",
    "enable_mamba_shared_prefix_checkpoint": "False",
    "enable_prefix_caching": "",
    "engine": "0",
    "gpu_memory_utilization": "0.92",
    "hash_block_size": "None",
    "is_attention_free": "False",
    "kv_cache_dtype_skip_layers": "[]",
    "kv_cache_layout": "None",
    "kv_cache_max_concurrency": "None",
    "kv_cache_memory_bytes": "None",
    "kv_cache_size_tokens": "",
    "kv_offloading_backend": "native",
    "kv_offloading_size": "None",
    "kv_sharing_fast_prefill": "False",
    "mamba_block_size": "None",
    "mamba_cache_dtype": "auto",
    "mamba_cache_mode": "none",
    "mamba_page_size_padded": "None",
    "mamba_ssm_cache_dtype": "float32",
    "num_cpu_blocks": "None",
    "num_gpu_blocks": "",
    "num_gpu_blocks_override": "None",
    "prefix_cache_retention_interval": "0",
    "prefix_caching_hash_algo": "sha256",
    "prefix_match_unit": "None",
    "replayssm_buffer_len": "16",
    "skip_page_size_padded": "None",
    "sliding_window": "None",
    "swa_bounded_replay": "True",
    "use_kda_recoverssm": "False",
    "use_replayssm": "False",
    "user_specified_block_size": "False",
}
