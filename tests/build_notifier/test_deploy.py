"""The script that deploys the notifier, with a gcloud that notes what it is told."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "src/docker/build_notifier/deploy.sh"
GCLOUD = """#!/bin/sh
printf '%s ' "$@" >>"$CALLS"; echo >>"$CALLS"
case "$*" in *transport.pubsub.subscription*) echo projects/acme/subscriptions/s1 ;; esac
"""


def _deploy(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    (folder / "gcloud").write_text(GCLOUD)
    (folder / "gcloud").chmod(0o755)
    calls = folder / "calls"
    calls.touch()
    run = subprocess.run(  # noqa: S603
        (str(SCRIPT), *arguments),
        env={"PATH": f"{folder}:{os.environ['PATH']}", "PROJECT": "acme", "CALLS": str(calls)},
        capture_output=True,
        text=True,
        check=False,
    )
    return run, calls.read_text().splitlines()


def _number(calls: list[str], flag: str) -> int:
    words = " ".join(calls).split()
    return int(words[words.index(flag) + 1])


def test_a_report_ends_before_its_message_is_delivered_again(tmp_path: Path) -> None:
    """Pub/Sub's deadline is longer than a request may take, and there is one instance to claim."""
    run, calls = _deploy(tmp_path, "image", "ANALYZE=1")

    assert run.returncode == 0, run.stderr
    assert _number(calls, "--timeout") < _number(calls, "--ack-deadline") <= 600
    assert _number(calls, "--max-instances") == 1
    assert calls[-1].startswith("pubsub subscriptions update projects/acme/subscriptions/s1 ")
    assert any("--update-env-vars=ANALYZE=1" in call for call in calls)


@pytest.mark.parametrize("pair", ["WEBHOOK_URL=https://canary", "GEMINI_API_KEY=canary", "canary"])
def test_a_secret_is_no_argument(tmp_path: Path, pair: str) -> None:
    """It ends before gcloud is called."""
    run, calls = _deploy(tmp_path, "image", pair)

    assert run.returncode == 2
    assert not any("run deploy" in call for call in calls)
    assert pair == "canary" or "canary" not in run.stderr
