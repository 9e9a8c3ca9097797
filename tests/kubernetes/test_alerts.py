"""Faults, and the alerts that ring for each, no more and no fewer.  Prometheus's engine judges."""

import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.kubernetes.manifests import read

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not on the PATH, so no alert was tried; apt-get install prometheus",
)

RULES = "monitoring/rules.yaml"

MODEL = 'model_name="llama"'
TTFT = "vllm:time_to_first_token_seconds"
CHATS = "llama_chat_requests_total"
XID = 'DCGM_FI_DEV_XID_ERRORS{Hostname="n", gpu="0"}'
PULL = "kube_pod_container_status_waiting_reason"
RESTARTS = "kube_pod_container_status_restarts_total"

# A minute each, for an hour and a half: two replicas that serve, and everything well.
HEALTHY = {
    'up{job="llama-model-server", pod="a"}': "1x90",
    'up{job="llama-model-server", pod="b"}': "1x90",
    'up{job="managed-lb"}': "1x90",
    'up{job="chat-backend"}': "1x90",
    'up{job="dcgm-exporter"}': "1x90",
    f'vllm:num_requests_running{{{MODEL}, pod="a", engine="0"}}': "4x90",
    f'vllm:num_requests_running{{{MODEL}, pod="b", engine="0"}}': "4x90",
    f'vllm:num_requests_waiting{{{MODEL}, pod="a", engine="0"}}': "0x90",
    f'vllm:generation_tokens_total{{{MODEL}, pod="a", engine="0"}}': "0+6000x90",
    f'vllm:generation_tokens_total{{{MODEL}, pod="b", engine="0"}}': "0+6000x90",
    f'vllm:prompt_tokens_total{{{MODEL}, pod="a", engine="0"}}': "0+900x90",
    f'vllm:prompt_tokens_total{{{MODEL}, pod="b", engine="0"}}': "0+900x90",
    f'vllm:kv_cache_usage_perc{{{MODEL}, pod="a"}}': "0.4x90",
    f"{TTFT}_count{{{MODEL}}}": "0+60x90",
    f'{TTFT}_bucket{{{MODEL}, le="2.5"}}': "0+60x90",
    f'{CHATS}{{status="success"}}': "0+60x90",
    'DCGM_FI_DEV_GPU_TEMP{Hostname="n", gpu="0"}': "60x90",
    XID: "0x90",
    'kubelet_volume_stats_available_bytes{namespace="llama-platform"}': "20x90",
    'kubelet_volume_stats_capacity_bytes{namespace="llama-platform"}': "30x90",
    f'{PULL}{{namespace="llama-platform", pod="c", reason="ContainerCreating"}}': "0x90",
    f'{RESTARTS}{{namespace="llama-platform", pod="a"}}': "1x90",
    'kube_cronjob_status_last_successful_time{cronjob="ecr-credentials"}': "0x90",
}


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """What goes wrong, and which alerts ring at minute 80.

    Attributes:
        series: in place of the healthy ones, or beside them; "" takes one away.
    """

    series: dict[str, str]
    alerts: set[str] = field(default_factory=set)


def engines(name: str, pod: str = "a") -> str:
    return f'vllm:{name}{{{MODEL}, pod="{pod}", engine="0"}}'


def up(job: str, pod: str = "") -> str:
    return f'up{{job="{job}", pod="{pod}"}}' if pod else f'up{{job="{job}"}}'


A, B = up("llama-model-server", "a"), up("llama-model-server", "b")

FAULTS = {
    "nothing": InjectedFault({}),
    "one of two replicas loads for ten minutes": InjectedFault({B: "1x69 0x10 1x10"}),
    "one of two replicas is gone": InjectedFault({B: "1x40 0x50"}, {"ReplicaDown"}),
    "both replicas are gone": InjectedFault({A: "1x70 0x20", B: "1x70 0x20"}, {"EngineDown"}),
    "there never was one": InjectedFault({A: "", B: ""}, {"EngineDown"}),
    "an engine hangs": InjectedFault(
        {
            engines("generation_tokens_total"): "0+6000x60 360000x30",
            engines("prompt_tokens_total"): "0+900x60 54000x30",
        },
        {"EngineHung"},
    ),
    "an engine is idle": InjectedFault(
        {
            engines("num_requests_running"): "4x60 0x30",
            engines("generation_tokens_total"): "0+6000x60 360000x30",
            engines("prompt_tokens_total"): "0+900x60 54000x30",
        }
    ),
    "an engine reads a long prompt": InjectedFault(
        {engines("generation_tokens_total"): "0+6000x60 360000x30"}
    ),
    "an engine crashes again and again": InjectedFault(
        {f'{RESTARTS}{{namespace="llama-platform", pod="a"}}': "1x60 1+1x30"}, {"EngineRestarts"}
    ),
    "an engine restarted once": InjectedFault(
        {f'{RESTARTS}{{namespace="llama-platform", pod="a"}}': "1x60 2x30"}
    ),
    "a deep queue": InjectedFault({engines("num_requests_waiting"): "40x90"}, {"QueueDeep"}),
    "a queue for two minutes": InjectedFault({engines("num_requests_waiting"): "0x77 40x2 0x10"}),
    "a full KV cache": InjectedFault(
        {f'vllm:kv_cache_usage_perc{{{MODEL}, pod="a"}}': "0.99x90"}, {"KvCacheFull"}
    ),
    "answers that are cut, with status 200": InjectedFault(
        {f'{CHATS}{{status="answer_cut"}}': "0+10x90"}, {"ChatFails"}
    ),
    "engines that refuse": InjectedFault(
        {f'{CHATS}{{status="engine_busy"}}': "0+10x90"}, {"ChatFails"}
    ),
    "people who stop answers": InjectedFault({f'{CHATS}{{status="stopped"}}': "0+50x90"}),
    "questions that are too long": InjectedFault({f'{CHATS}{{status="too_long"}}': "0+50x90"}),
    "one chat that fails at night": InjectedFault(
        {f'{CHATS}{{status="success"}}': "5x90", f'{CHATS}{{status="engine_failed"}}': "0x77 1x12"}
    ),
    "one slow first token at night": InjectedFault(
        {f"{TTFT}_count{{{MODEL}}}": "7x75 8x15", f'{TTFT}_bucket{{{MODEL}, le="2.5"}}': "7x90"}
    ),
    "first tokens are late by day": InjectedFault(
        {f'{TTFT}_bucket{{{MODEL}, le="2.5"}}': "0+6x90"},
        {"FirstTokenBudgetBurns", "FirstTokenBudgetBurnsFast"},
    ),
    "Xid 13 long ago": InjectedFault({XID: "13x90"}),
    "Xid 79 now": InjectedFault({XID: "0x78 79x12"}, {"GpuXid"}),
    "Xid 79 after Xid 13": InjectedFault({XID: "13x78 79x12"}, {"GpuXid"}),
    "a hot GPU": InjectedFault(
        {'DCGM_FI_DEV_GPU_TEMP{Hostname="n", gpu="0"}': "60x60 90x30"}, {"GpuHot"}
    ),
    "a GPU that is hot for a minute": InjectedFault(
        {'DCGM_FI_DEV_GPU_TEMP{Hostname="n", gpu="0"}': "60x78 90x1 60x20"}
    ),
    "no metrics of GPUs": InjectedFault({up("dcgm-exporter"): "1x60 0x30"}, {"GpuMetricsMissing"}),
    "a full volume": InjectedFault(
        {'kubelet_volume_stats_available_bytes{namespace="llama-platform"}': "20x60 1x30"},
        {"VolumeFull"},
    ),
    "a dead balancer": InjectedFault({up("managed-lb"): "1x70 0x20"}, {"BalancerDown"}),
    "a balancer that is gone": InjectedFault({up("managed-lb"): ""}, {"BalancerDown"}),
    "a platform with one replica and no balancer": InjectedFault({up("managed-lb"): "", B: ""}),
    "a dead backend": InjectedFault({up("chat-backend"): "1x70 0x20"}, {"ChatDown"}),
    "an expired token of the registry": InjectedFault(
        {f'{PULL}{{namespace="llama-platform", pod="c", reason="ImagePullBackOff"}}': "1x90"},
        {"ImagesCannotBePulled"},
    ),
    "a token that is not renewed": InjectedFault(
        {'kube_cronjob_status_last_successful_time{cronjob="ecr-credentials"}': "-30000x90"},
        {"RegistryTokenOld"},
    ),
    "Prometheus was away for twenty minutes": InjectedFault(
        {
            series: values.replace("x90", "x58 _x20 " + values.split("x")[0] + "x10")
            if "+" not in values
            else values
            for series, values in HEALTHY.items()
            if series.startswith("up{")
        }
    ),
}


def case(name: str, fault: InjectedFault) -> dict[str, object]:
    series = {**HEALTHY, **fault.series}
    return {
        "name": name,
        "interval": "1m",
        "input_series": [
            {"series": name, "values": values} for name, values in series.items() if values
        ],
        "promql_expr_test": [
            {
                "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": "80m",
                "exp_samples": [
                    {"labels": f'{{alertname="{alert}"}}', "value": 1}
                    for alert in sorted(fault.alerts)
                ],
            }
        ],
    }


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_rings_its_alerts_and_no_others(name: str, tmp_path: Path) -> None:
    """0 missed and 0 false, a minute at a time."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": read(RULES)["spec"]["groups"]}))
    tests = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [case(name, FAULTS[name])],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(tests, sort_keys=False, width=1000))

    done = subprocess.run(
        ["promtool", "test", "rules", "test.yaml"],  # noqa: S607
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_rings_for_some_fault_and_says_what_to_do() -> None:
    """One that nobody has seen ring may be one that cannot."""
    rules = [rule for group in read(RULES)["spec"]["groups"] for rule in group["rules"]]
    alerts = {rule["alert"]: rule for rule in rules if "alert" in rule}

    assert alerts.keys() == {alert for fault in FAULTS.values() for alert in fault.alerts}
    for rule in alerts.values():
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["remedy"]
        assert rule["labels"]["severity"] in ("critical", "warning")
