"""Run a command on a node: here, or through AWS Systems Manager."""

import json
import subprocess
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from cluster_check.checks import ClusterNode, Output

# Runs a program, and returns what it said.
Start = Callable[[Sequence[str]], Output]

# A check takes under a second; the rest is SSM's delay.
COMMAND_TIMEOUT_S = 60.0
POLL_S = 1.0


class Reach(Protocol):
    """A way to run a shell command on a node.  Never raises: what failed is in the output."""

    def run(self, node: ClusterNode, command: str) -> Output: ...


def start_process(arguments: Sequence[str]) -> Output:
    """Run a program on this machine."""
    try:
        done = subprocess.run(  # noqa: S603
            list(arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        return Output(None, f"{arguments[0]} is not installed here")
    except subprocess.TimeoutExpired:
        return Output(None, f"no answer within {COMMAND_TIMEOUT_S:.0f} s")
    return Output(done.returncode, done.stdout)


class Here:
    """This very machine."""

    def __init__(self, start: Start) -> None:
        self._start = start

    def run(self, node: ClusterNode, command: str) -> Output:  # noqa: ARG002
        return self._start(["/bin/sh", "-c", command])


class ThroughSsm:
    """Nodes on EC2, by the `aws` command and whatever credentials it finds."""

    def __init__(self, start: Start, pause: Callable[[float], None], region: str = "") -> None:
        self._start = start
        self._pause = pause
        self._region = ["--region", region] if region else []

    def run(self, node: ClusterNode, command: str) -> Output:
        sent = self._aws(
            "send-command",
            "--instance-ids",
            node.instance_id,
            "--document-name",
            "AWS-RunShellScript",
            "--parameters",
            json.dumps({"commands": [command]}),
        )
        if isinstance(sent, Output):
            return sent
        return self._result(node, sent["Command"]["CommandId"])

    def _result(self, node: ClusterNode, command_id: str) -> Output:
        waited_s = 0.0
        while waited_s < COMMAND_TIMEOUT_S:
            # Asked for at once, SSM does not know the command yet.
            self._pause(POLL_S)
            waited_s += POLL_S
            got = self._aws(
                "get-command-invocation",
                "--command-id",
                command_id,
                "--instance-id",
                node.instance_id,
            )
            if isinstance(got, Output):
                return got
            if got["Status"] not in ("Pending", "InProgress", "Delayed"):
                text = got["StandardOutputContent"]
                return Output(got["ResponseCode"], text)
        return Output(None, f"no answer from SSM within {COMMAND_TIMEOUT_S:.0f} s")

    def _aws(self, *arguments: str) -> dict[str, Any] | Output:
        """Return the JSON of an `aws ssm` command, or why there is none."""
        said = self._start(["aws", "ssm", *arguments, *self._region, "--output", "json"])
        if said.code != 0:
            return Output(None, " ".join(said.text.split()) or "aws failed without a word")
        try:
            answer: dict[str, Any] = json.loads(said.text)
        except json.JSONDecodeError:
            return Output(None, f"aws did not answer in JSON: {said.text[:80]!r}")
        return answer
