"""The alerts: they ring when they must, and their names are what engines expose."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from chat_backend.metrics import ChatMetrics
from tests.chat_backend.services import simulated_engine
from tests.kubernetes.manifests import read

PROMTOOL_MISSING = (
    "promtool is not on the PATH, so no alert was tried; `apt-get install prometheus` brings it"
)
RULES = "monitoring/rules.yaml"


def expressions() -> list[str]:
    return [rule["expr"] for group in read(RULES)["spec"]["groups"] for rule in group["rules"]]


@pytest.mark.skipif(shutil.which("promtool") is None, reason=PROMTOOL_MISSING)
def test_alerts_ring_when_they_must(tmp_path: Path) -> None:
    """As rules.test.yaml says, minute by minute."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": read(RULES)["spec"]["groups"]}))
    cases = Path(__file__).with_name("rules.test.yaml").read_text()
    (tmp_path / "test.yaml").write_text(cases)

    done = subprocess.run(
        ["promtool", "test", "rules", "test.yaml"],  # noqa: S607
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout + done.stderr


async def test_rules_name_what_is_exposed() -> None:
    """vLLM's metrics on a (simulated) engine's /metrics, the chat's on the backend's."""
    async with simulated_engine() as engine:
        exposed = engine.replica.exposition()
    telemetry = ChatMetrics()
    telemetry.answered("POST", "/chat", 200, 0.1)
    telemetry.chat_ended("success", 0.1)
    exposed += telemetry.exposition().decode()
    samples = set(re.findall(r"^([a-z_:]+)[{ ]", exposed, flags=re.MULTILINE))

    text = " ".join(expressions())
    named = set(re.findall(r"(?:vllm:|http_|llama_)[a-z_]+", text))

    assert named <= samples
    assert "vllm:time_to_first_token_seconds_bucket{" in exposed
    assert 'le="2.5"' in exposed
