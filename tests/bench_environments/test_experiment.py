"""A whole experiment with the simulator in vLLM's place: started, proven, measured, stopped."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
GIVE_UP_S = 300.0
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"

PLAN = """
fleet: %s
engines: [vllm, kvcached]
environ: {VLLM_SERVER_DEV_MODE: "1"}
warmup: [--num-requests, "4", --concurrency, "2", --workload, synthetic, --osl, "4"]
loads:
  - name: tiny
    expected_s: 3
    options: [--model, meta-llama/Llama-3.1-8B-Instruct, --workload, synthetic, --isl, "64",
      --osl, "8", --rate, "8", --parts, "1", --part-s, "2", --warmup-s, "0", --reset-prefix-cache]
"""

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"


FLEET = f"""
models: [{{name: {LLAMA}, short_name: it, gpu_memory_utilization: 0.4}}]
replicas:
  - {{name: it-1, model: {LLAMA}, gpus: [0], gpu: h200, port: 18501}}
  - {{name: it-2, model: {LLAMA}, gpus: [0], gpu: h200, port: 18502}}
"""


def experiment(tmp_path: Path, limit_s: float) -> subprocess.Popen[str]:
    (tmp_path / "fleet.yaml").write_text(FLEET)
    (tmp_path / "plan.yaml").write_text(PLAN % (tmp_path / "fleet.yaml"))
    gpus = tmp_path / "gpus"
    gpus.mkdir(exist_ok=True)
    fake = f"{sys.executable} {HERE / 'fake_gpus.py'}"
    return subprocess.Popen(  # noqa: S603
        [
            *(sys.executable, "-m", "bench_environments.main", "experiment"),
            *(str(tmp_path / "plan.yaml"), "--output-dir", str(tmp_path / "out")),
            *("--time-limit-s", str(limit_s), "--gpu-log", f"{fake} log"),
            *("--vllm", f"{sys.executable} {HERE / 'stand_in_vllm.py'}"),
            *("--gpu-memory", f"{fake} memory"),
        ],
        # What runs for this test can be told by FAKE_GPUS.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "FAKE_GPUS": str(gpus)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def said(tmp_path: Path) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = json.loads(
        (tmp_path / "out" / "experiment.json").read_text()
    )
    return found


@pytest.mark.slow
def test_both_kinds_are_measured_side_by_side_and_only_once(tmp_path: Path) -> None:
    """On two GPUs; a second call finds everything done, starts nothing, and says so."""
    first = experiment(tmp_path, 250.0)
    output, _ = first.communicate(timeout=GIVE_UP_S)

    assert first.returncode == 0, output
    content = said(tmp_path)
    assert content["side_by_side"]
    outcomes = {(step["engine"], step["outcome"]) for step in content["steps"]}
    assert outcomes == {("vllm", "done"), ("kvcached", "done")}
    proof = (tmp_path / "out/proofs/kvcached/it-1-kvcached-start.txt").read_text()
    assert "kvcached_memory_follows_load{" in proof
    comparison = next((tmp_path / "out/tiny/kvcached").glob("*managed/*/comparison.json"))
    assert json.loads(comparison.read_text())["baseline"] == "kvcached-baseline"

    again = experiment(tmp_path, 250.0)
    output, _ = again.communicate(timeout=GIVE_UP_S)
    assert "serves after" not in output


@pytest.mark.slow
def test_a_call_that_is_stopped_leaves_nothing_running(tmp_path: Path) -> None:
    """Engines and load balancers end with it, and what was written so far is readable."""
    running = experiment(tmp_path, 250.0)
    assert running.stdout is not None
    line = running.stdout.readline()
    assert "serves after" in line

    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=60.0)

    assert said(tmp_path)["plan"]
    time.sleep(0.5)
    assert [one for one in descriptions() if f"FAKE_GPUS={tmp_path}" in one] == []


def descriptions() -> list[str]:
    """Return the command line and environment of every process that can be read."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found.append((entry / "cmdline").read_text() + (entry / "environ").read_text())
    return found
