"""Commands on nodes: what SSM says is passed on, and whatever fails is said."""

import json
from collections.abc import Sequence

from cluster_check.checks import WORKER, ClusterNode, Output
from cluster_check.reach import COMMAND_TIMEOUT_S, Here, ThroughSsm, start_process

NODE = ClusterNode("worker", WORKER, "i-1")


class Aws:
    """Stands in for the `aws` command: answers in the order given, and notes each call."""

    def __init__(self, *answers: Output | dict[str, object]) -> None:
        self._answers = list(answers)
        self.calls: list[list[str]] = []

    def __call__(self, arguments: Sequence[str]) -> Output:
        self.calls.append(list(arguments))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return answer if isinstance(answer, Output) else Output(0, json.dumps(answer))


SENT: dict[str, object] = {"Command": {"CommandId": "c-1"}}
WAITING: dict[str, object] = {"Status": "InProgress"}


def test_a_command_goes_through_ssm() -> None:
    """Sent, asked for until it has ended, and its output returned."""
    done: dict[str, object] = {
        "Status": "Success",
        "ResponseCode": 0,
        "StandardOutputContent": "overlay\n",
    }
    aws = Aws(SENT, WAITING, done)
    pauses: list[float] = []

    output = ThroughSsm(aws, pauses.append, "eu-west-1").run(NODE, "lsmod")

    assert output == Output(0, "overlay\n")
    assert aws.calls[0][:5] == ["aws", "ssm", "send-command", "--instance-ids", "i-1"]
    assert json.dumps({"commands": ["lsmod"]}) in aws.calls[0]
    assert all("eu-west-1" in call for call in aws.calls)
    assert len(pauses) == 2


def test_a_node_that_ssm_does_not_know_is_said() -> None:
    """In SSM's words, on one line."""
    aws = Aws(Output(254, "An error occurred\n(InvalidInstanceId)\n"))

    output = ThroughSsm(aws, lambda _: None).run(NODE, "true")

    assert output == Output(None, "An error occurred (InvalidInstanceId)")


def test_a_command_that_never_ends_is_given_up() -> None:
    """After the time that it was given, counted in polls."""
    pauses: list[float] = []

    output = ThroughSsm(Aws(SENT, WAITING), pauses.append).run(NODE, "true")

    assert output.code is None
    assert sum(pauses) == COMMAND_TIMEOUT_S


def test_an_answer_that_is_no_json_is_said() -> None:
    """A wrapper around `aws` may print anything."""
    output = ThroughSsm(Aws(Output(0, "Welcome!")), lambda _: None).run(NODE, "true")

    assert output == Output(None, "aws did not answer in JSON: 'Welcome!'")


def test_a_command_runs_here() -> None:
    """In a shell, with its exit status."""
    assert Here(start_process).run(NODE, "echo out; exit 3") == Output(3, "out\n")


def test_a_program_that_is_missing_is_said() -> None:
    """Without `aws` nothing can be asked."""
    assert start_process(["no-such-program"]) == Output(
        None, "no-such-program is not installed here"
    )
