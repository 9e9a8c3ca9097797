"""The program: it announces itself, a load balancer finds it, and it ends at once."""

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from servekit.launch.port import free_port
from tests.support.programs import environ, program

PYTHON = (sys.executable, "-m", "simulator.main")

FLEET = """
models:
  - {{name: m, short_name: m}}
replicas:
  - {{name: m-1, model: m, gpus: [0], gpu: h200, port: {0}}}
  - {{name: m-2, model: m, gpus: [1], gpu: h200, port: {1}}}
""".replace("name: m,", "name: meta-llama/Llama-3.1-8B-Instruct,").replace(
    "model: m,", "model: meta-llama/Llama-3.1-8B-Instruct,"
)


def post(url: str, body: object) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode())  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return json.loads(answer.read())


def _refused(*arguments: str) -> str:
    """What a program says that ends with exit code 2 and without a traceback."""
    result = subprocess.run(  # noqa: S603
        [*PYTHON, *arguments], capture_output=True, text=True, env=environ(), check=False
    )
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    return result.stderr


def test_fleet_is_announced_and_ends_on_sigterm() -> None:
    """One line names every replica's address, and all of them as `--endpoints` takes them."""
    command = [*PYTHON, "--only", "llama-8b", "--ports", "auto"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ()) as process:  # noqa: S603
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)

        assert process.wait(30) == 0

    assert ready["event"] == "ready"
    assert list(ready["replicas"]) == ["llama-8b-1", "llama-8b-2"]
    assert ready["endpoints"] == ",".join(ready["replicas"].values())


def test_one_replica_can_be_served_alone() -> None:
    """As a container of its own would."""
    with program("simulator.main", "--only", "qwen-7b-2", "--ports", "auto") as ready:
        assert list(ready["replicas"]) == ["qwen-7b-2"]


def test_a_load_balancer_finds_the_simulator(tmp_path: Path) -> None:
    """Two commands without a port: both take those of the fleet file."""
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(FLEET.format(free_port(), free_port()))
    asked = {"model": "meta-llama/Llama-3.1-8B-Instruct", "prompt": "Hello", "max_tokens": 5}

    with (
        program("simulator.main", "--fleet", str(fleet)),
        program("loadbalancer.managed", "--fleet", str(fleet), "--port", "0") as balancer,
    ):
        answer = post(f"{balancer['url']}/v1/completions", asked)

    assert answer["usage"]["completion_tokens"] == 5


def test_bad_options_are_usage_errors() -> None:
    """One line each, exit code 2, no traceback."""
    cases = {
        ("--fleet", "no"): "built-in",
        ("--only", "no"): "not a model or replica of",
        ("--speed", "nan"): "must be from 0.001 to 1000",
        ("--speed", "0"): "must be from 0.001 to 1000",
        ("--seed", str(2**63)): "must fit in 62 bits",
        ("--max-num-queued-reqs", "0"): "must be at least 1",
        ("--vllm-version", "new"): "vLLM version 'new' is invalid",
    }
    for arguments, words in cases.items():
        assert words in _refused(*arguments), arguments
