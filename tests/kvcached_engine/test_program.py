"""The program with an engine that has KVCached, has not, or dies."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvcached_engine.segment import SHARED_MEMORY
from servekit.launch.port import free_port

FAKE = Path(__file__).with_name("fake_vllm.py")
GIVE_UP_S = 30.0


@dataclass(frozen=True, slots=True)
class Program:
    """`kvcached_engine`, running.

    Attributes:
        ipc_name: of the segment in the real /dev/shm.
        port: of the engine.
    """

    process: subprocess.Popen[str]
    ipc_name: str
    port: int

    def ready(self) -> dict[str, object]:
        assert self.process.stdout is not None
        event: dict[str, object] = json.loads(self.process.stdout.readline())
        return event

    def ended(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=GIVE_UP_S)
        return self.process.returncode, errors

    def stop(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        return self.ended()


def start(fault: str, **environ: str) -> Program:
    ipc_name = environ.get("KVCACHED_IPC_NAME", f"servekit-test-{uuid.uuid4().hex}")
    port = free_port()
    process = subprocess.Popen(  # noqa: S603
        [
            *(sys.executable, "-m", "kvcached_engine.main"),
            *("--vllm", f"{sys.executable} {FAKE} {fault}"),
            *("serve", "a/model", "--port", str(port)),
        ],
        env={
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PATH": os.environ["PATH"],
            "KVCACHED_METRICS_HOST": "127.0.0.1",
            "KVCACHED_METRICS_PORT": "0",
            "KVCACHED_IPC_NAME": ipc_name,
            **environ,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return Program(process, ipc_name, port)


@pytest.fixture
def started() -> Iterator[list[Program]]:
    """Programs that a test adds are ended after it, with what they left in /dev/shm."""
    programs: list[Program] = []
    yield programs
    for program in programs:
        if program.process.poll() is None:
            program.process.kill()
            program.process.communicate()
        for left in SHARED_MEMORY.glob(f"{program.ipc_name}*"):
            left.unlink(missing_ok=True)


def get(url: object) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(str(url), timeout=GIVE_UP_S) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def test_an_engine_with_kvcached_serves_and_is_measured(started: list[Program]) -> None:
    """Ready says what the segment says; the metrics follow it; SIGTERM ends both with code 0."""
    started.append(program := start("none"))

    event = program.ready()
    health, _ = get(f"{event['metrics']}/health")
    _, metrics = get(f"{event['metrics']}/metrics")
    code, _ = program.stop()

    gib = 1024**3
    usage = {"limit": 40 * gib, "used": 2 * gib, "preallocated": gib}
    assert (event["event"], event["kvcached"]) == ("ready", usage)
    assert health == 200
    assert f'kvcached_used_bytes{{ipc="{program.ipc_name}"}} {2 * gib}' in metrics
    assert code == 0


def test_an_engine_without_kvcached_does_not_serve(started: list[Program]) -> None:
    """A comparison would measure plain vLLM under the name of KVCached."""
    started.append(program := start("unpatched", KVCACHED_PROOF_TIMEOUT_S="0.5"))

    code, errors = program.ended()

    assert code == 1
    assert "vLLM serves without KVCached" in errors
    assert "(KVCached: Failed to patch vllm: ElasticBlockPoolPatch)" in errors
    assert "Traceback" not in errors


def test_what_a_killed_engine_left_proves_nothing(started: list[Program]) -> None:
    """With ipc: host the segment outlives its container."""
    ipc_name = f"servekit-test-{uuid.uuid4().hex}"
    (SHARED_MEMORY / ipc_name).write_bytes(b"\1" + b"\0" * 23)
    program = start("unpatched", KVCACHED_IPC_NAME=ipc_name, KVCACHED_PROOF_TIMEOUT_S="0.5")
    started.append(program)

    code, errors = program.ended()

    assert (code, "vLLM serves without KVCached" in errors) == (1, True)


def test_health_is_lost_with_the_segment(started: list[Program]) -> None:
    """Whoever deletes it (`kvctl delete`) has an engine of which nothing is known any more."""
    started.append(program := start("none"))
    event = program.ready()

    (SHARED_MEMORY / program.ipc_name).unlink()

    assert get(f"{event['metrics']}/health")[0] == 503
    assert get(f"{event['metrics']}/metrics")[1].count("\nkvcached_used_bytes{") == 0


def test_the_same_image_serves_without_kvcached_when_told(started: list[Program]) -> None:
    """For the other arm: the same vLLM, and one thing different."""
    started.append(program := start("none", ENABLE_KVCACHED="false"))

    event = program.ready()
    health, _ = get(f"{event['metrics']}/health")

    assert (event["kvcached"], health) == (None, 200)
    assert program.stop()[0] == 0


def test_an_engine_that_dies_ends_the_program(started: list[Program]) -> None:
    """With the engine's own last words, in one line."""
    started.append(program := start("dies"))

    code, errors = program.ended()

    assert code == 1
    assert errors.splitlines()[-1].startswith("error: the engine exited with 1: ValueError")


def test_two_engines_of_one_name_are_refused(started: list[Program]) -> None:
    """By the second, before it starts its engine."""
    started.append(first := start("none"))
    first.ready()

    started.append(second := start("none", KVCACHED_IPC_NAME=first.ipc_name))
    code, errors = second.ended()

    assert code == 2
    assert "which another engine on this host uses" in errors


def test_stopping_while_the_engine_starts_leaves_nothing(started: list[Program]) -> None:
    """Compose's `down` does not wait for weights."""
    started.append(program := start("none"))
    deadline = time.monotonic() + GIVE_UP_S
    while not (SHARED_MEMORY / f"{program.ipc_name}.claim").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)

    code, errors = program.stop()

    assert code == 0, errors
    assert not (SHARED_MEMORY / program.ipc_name).exists()
