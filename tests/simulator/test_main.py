"""The program: it announces itself, and it ends at once."""

import json
import os
import signal
import subprocess
import sys

PYTHON = (sys.executable, "-m", "simulator.main")


def _environ() -> dict[str, str]:
    """The child finds our modules where we found them."""
    return dict(os.environ) | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def test_fleet_is_announced_and_ends_on_sigterm() -> None:
    """One line names every replica's address; SIGTERM ends the process."""
    command = [*PYTHON, "--only", "llama-8b"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environ()) as process:  # noqa: S603
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)

        assert process.wait(30) == 0

    assert ready["event"] == "ready"
    assert list(ready["replicas"]) == ["llama-8b-1", "llama-8b-2"]


def test_one_replica_can_be_served_alone() -> None:
    """As a container of its own would."""
    command = [*PYTHON, "--only", "qwen-7b-2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environ()) as process:  # noqa: S603
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        process.terminate()

    assert list(ready["replicas"]) == ["qwen-7b-2"]


def test_unknown_fleet_and_model_are_usage_errors() -> None:
    """One line each, exit code 2, no traceback."""
    cases = ((["--fleet", "no"], "ours are"), (["--only", "no"], "no model or replica of"))
    for arguments, words in cases:
        result = subprocess.run(  # noqa: S603
            [*PYTHON, *arguments], capture_output=True, text=True, env=_environ(), check=False
        )

        assert result.returncode == 2
        assert words in result.stderr
        assert "Traceback" not in result.stderr
