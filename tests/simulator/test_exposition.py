"""/metrics of a simulated engine, against the exposition of a real one."""

from importlib import resources

import pytest

from servekit.enginesim.config import EngineConfig
from servekit.enginesim.engine import SimulatedEngine
from servekit.enginesim.sequence import EngineRequest
from servekit.metrics.engine_load import read_engine_load
from servekit.metrics.exposition import samples
from simulator.exposition import EngineMetrics, sleep_lines
from tests.servekit.enginesim.driving import PROFILE


def _metrics() -> str:
    """Return /metrics of an engine that has served a request and holds another."""
    engine = SimulatedEngine(EngineConfig(num_blocks=1000), PROFILE)
    metrics = EngineMetrics(8192)
    engine.submit(EngineRequest(1, 100, 3), 0.0)
    engine.begin(0.0)
    while not engine.idle:
        step = engine.end()
        metrics.count_step(step, step.end_s - step.start_s)
        for sequence in step.finished:
            metrics.count_finished(sequence, step.end_s, "length")
        engine.begin(step.end_s)
    engine.submit(EngineRequest(2, 50, 9), 1.0)
    engine.begin(1.0)
    return metrics.render(engine, "tiny", 1.0, {}) + sleep_lines("tiny", 0)


def _names(text: str) -> set[tuple[str, frozenset[str]]]:
    return {(sample.name, frozenset(sample.labels)) for sample in samples(text)}


def test_every_name_and_label_is_one_of_vllm() -> None:
    """Nothing is exposed that a real engine would not expose."""
    golden = resources.files("tests.golden") / "vllm" / "metrics_v0.32.0_cpu_generate.txt"

    assert _names(_metrics()) - _names(golden.read_text()) == set()


@pytest.mark.parametrize(
    "metric",
    ["time_to_first_token_seconds", "inter_token_latency_seconds", "request_prompt_tokens"],
)
def test_buckets_are_those_of_vllm(metric: str) -> None:
    """A dashboard's quantiles mean the same; prompt buckets end at the model's own length."""
    golden = resources.files("tests.golden") / "vllm" / "metrics_v0.32.0_cpu_generate.txt"

    def bounds(text: str) -> list[str]:
        name = f"vllm:{metric}_bucket"
        return [sample.labels["le"] for sample in samples(text, {name})]

    real = bounds(golden.read_text())
    assert bounds(_metrics())[: len(real) - 1] == real[:-1]


def test_load_balancer_reads_a_whole_load() -> None:
    """Every field of EngineLoad is known."""
    load = read_engine_load(_metrics())

    assert load.running == 1
    assert load.waiting == 0
    assert load.generation_tokens == 3
    assert load.prompt_tokens == 100
    assert None not in (load.kv_usage, load.prefix_queries, load.prefix_hits, load.preemptions)
