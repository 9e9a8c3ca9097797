"""The load of an engine, from one scrape."""

from importlib import resources

import pytest

from servekit.metrics import names
from servekit.metrics.engine_load import EngineLoad, read_engine_load


def test_sums_over_engines() -> None:
    """Data-parallel engines share one /metrics: counts add up, usage is their mean."""
    text = """
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
vllm:num_requests_waiting{engine="1",model_name="m"} 5.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.2
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.6
"""
    load = read_engine_load(text)

    assert (load.running, load.waiting) == (7, 5)
    assert load.kv_usage == pytest.approx(0.4)


def test_longer_name_is_another_metric() -> None:
    """`num_requests_waiting_by_reason` begins alike and counts something else."""
    text = """
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 9.0
"""
    assert read_engine_load(text).waiting == 2


def test_missing_is_none_and_not_zero() -> None:
    """An engine that does not say is not idle."""
    assert read_engine_load("# nothing\n") == EngineLoad()


def test_not_a_number_is_unknown() -> None:
    """NaN is a legal value and no count."""
    assert read_engine_load("vllm:num_requests_running NaN").running is None


def test_former_name_is_read() -> None:
    """Engines that are still out there call KV usage by its old name."""
    assert read_engine_load("vllm:gpu_cache_usage_perc 0.5").kv_usage == 0.5


def test_other_models_are_left_out() -> None:
    """Where several models share an engine, only ours counts."""
    text = """
vllm:num_requests_running{model_name="mine"} 1.0
vllm:num_requests_running{model_name="other"} 8.0
"""
    assert read_engine_load(text, model="mine").running == 1


@pytest.mark.parametrize(
    "golden", ["metrics_v0.32.0_cpu_generate.txt", "metrics_v0.26.0_h200_generate.txt"]
)
def test_real_engine_says_everything_that_we_read(golden: str) -> None:
    """No field of EngineLoad is None on an engine that generates."""
    load = read_engine_load((resources.files("tests.golden") / "vllm" / golden).read_text())

    assert None not in (
        load.running,
        load.waiting,
        load.kv_usage,
        load.prefix_queries,
        load.prefix_hits,
        load.preemptions,
        load.prompt_tokens,
        load.generation_tokens,
        load.kv_tokens,
    )


def test_cache_is_as_large_as_all_engines_together() -> None:
    """In tokens; an engine that has not said how many blocks it has leaves it unknown."""
    line = 'vllm:cache_config_info{block_size="16",engine="%s",num_gpu_blocks="%s"} 1.0\n'

    assert read_engine_load(line % (0, 100) + line % (1, 50)).kv_tokens == 2400
    assert read_engine_load(line % (0, "None")).kv_tokens is None


def test_former_names_lead_to_current_ones() -> None:
    """A translation ends at a name that is read."""
    assert set(names.FORMER.values()) <= set(names.CURRENT)
