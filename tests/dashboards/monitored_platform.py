"""The platform as processes on loopback, and a real Prometheus that scrapes it."""

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from servekit.launch.port import free_port
from tests.kubernetes.manifests import read
from tests.support.dcgm import dcgm_exporter
from tests.support.programs import program

MODEL = "meta-llama/Llama-3.1-8B-Instruct"

# Two engines as small as the simulator knows them: 33,000 tokens of KV cache each.
FLEET = f"""
models:
  - {{name: {MODEL}, short_name: llama, max_model_len: 4096, gpu_memory_utilization: 0.92}}
replicas:
  - {{name: llama-0, model: {MODEL}, gpus: [0], gpu: l4, port: 8000}}
  - {{name: llama-1, model: {MODEL}, gpus: [1], gpu: l4, port: 8001}}
"""

# A busy machine is slow, but not for ever.
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Platform:
    """Addresses of what runs."""

    engines: list[str]
    balancer: str
    chat: str
    prometheus: str

    def query(self, expr: str) -> list[float]:
        """Return the value of each series that *expr* gives now."""
        asked = urllib.parse.urlencode({"query": expr})
        return [float(row["value"][1]) for row in self.ask(f"/api/v1/query?{asked}")["result"]]

    def ask(self, path: str) -> dict[str, Any]:
        answer = json.loads(get(self.prometheus + path))
        assert answer["status"] == "success", answer
        data: dict[str, Any] = answer["data"]
        return data


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
        body: bytes = answer.read()
        return body


def post(url: str, body: object) -> int:
    """Return the status."""
    request = urllib.request.Request(  # noqa: S310
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {PATIENCE_S:g} s: {what}"
        time.sleep(0.02)


def answers(url: str) -> bool:
    with suppress(urllib.error.URLError, OSError):
        return bool(get(url)) or True
    return False


@contextmanager
def platform(folder: Path) -> Iterator[Platform]:
    """Start everything, in *folder*; stop it in the end."""
    (folder / "fleet.yaml").write_text(FLEET)
    with ExitStack() as running:
        simulator = (
            "simulator.main",
            "--fleet",
            str(folder / "fleet.yaml"),
            "--ports",
            "auto",
            "--speed",
            "20",
        )
        engines = list(running.enter_context(program(*simulator))["replicas"].values())
        endpoints = ",".join(engines)
        arguments = ("loadbalancer.managed", "--endpoints", endpoints, "--port", "0")
        balancer = running.enter_context(program(*arguments))["url"]
        chat = f"http://127.0.0.1:{free_port()}"
        environ = {
            "ENGINE_URL": balancer,
            "MODEL_NAME": MODEL,
            "PORT": chat.rpartition(":")[2],
            "RATE_LIMIT_PER_MINUTE": "0",
        }
        running.enter_context(program("chat_backend.main", **environ))
        dcgm = running.enter_context(dcgm_exporter(_fields()))
        targets = {
            # The last is a replica that is down.
            "llama-model-server": [*engines, f"http://127.0.0.1:{free_port()}"],
            "managed-lb": [balancer],
            "chat-backend": [chat],
            "dcgm-exporter": [f"http://{dcgm}"],
        }
        prometheus = running.enter_context(_prometheus(folder, targets))
        yield Platform(engines, balancer, chat, prometheus)


def monitored() -> set[str]:
    """Return the services that our ServiceMonitors name."""
    text = Path("src/kubernetes/monitoring/servicemonitors.yaml").read_text()
    return {monitor["metadata"]["name"] for monitor in yaml.safe_load_all(text)}


def _fields() -> str:
    text = Path("src/kubernetes/monitoring/dcgm-exporter.yaml").read_text()
    maps = [found for found in yaml.safe_load_all(text) if found["kind"] == "ConfigMap"]
    fields: str = maps[0]["data"]["fields.csv"]
    return fields


@contextmanager
def _prometheus(folder: Path, targets: dict[str, list[str]]) -> Iterator[str]:
    """Scrape *targets* and evaluate our rules every second; give the address."""
    groups = {"groups": read("monitoring/rules.yaml")["spec"]["groups"]}
    (folder / "rules.yaml").write_text(yaml.safe_dump(groups))
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / "rules.yaml")],
        "scrape_configs": [_scraped(job, urls) for job, urls in targets.items()],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    address = f"127.0.0.1:{free_port()}"
    command = (
        *("prometheus", f"--config.file={folder}/prometheus.yaml", "--log.level=warn"),
        *(f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}"),
    )
    with subprocess.Popen(command, cwd=folder) as process:  # noqa: S603
        try:
            wait_for(lambda: answers(f"http://{address}/-/ready"), "Prometheus is ready")
            yield f"http://{address}"
        finally:
            process.terminate()


def _scraped(job: str, urls: list[str]) -> dict[str, Any]:
    """Scrape as the operator would: the labels are those that it adds."""
    namespace = "monitoring" if job == "dcgm-exporter" else "llama-platform"
    return {
        "job_name": job,
        "static_configs": [
            {
                "targets": [url.removeprefix("http://")],
                "labels": {"namespace": namespace, "service": job, "pod": f"{job}-{number}"},
            }
            for number, url in enumerate(urls)
        ],
    }
