"""The program with an engine that has KVCached, has not, or dies."""

import json
import os
import signal
import subprocess
import sys
import tempfile
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
FAKE_NVIDIA_SMI = Path(__file__).with_name("fake_nvidia_smi.py")
GIVE_UP_S = 30.0
GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Program:
    """`kvcached_engine`, running.

    Attributes:
        ipc_name: of the segment in the real /dev/shm.
        port: of the engine.
        gpu: the file of its GPU's used MiB.
    """

    process: subprocess.Popen[str]
    ipc_name: str
    port: int
    gpu: Path

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
    gpu = Path(environ.get("FAKE_GPU") or tempfile.mkstemp(prefix="fake-gpu-")[1])
    if not gpu.read_text():
        gpu.write_text("0")
    process = subprocess.Popen(  # noqa: S603
        [
            *(sys.executable, "-m", "kvcached_engine.main"),
            *("--vllm", f"{sys.executable} {FAKE} {fault}"),
            *("--gpu-memory", f"{sys.executable} {FAKE_NVIDIA_SMI}"),
            *("serve", "a/model", "--port", str(port)),
        ],
        env={
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PATH": os.environ["PATH"],
            "KVCACHED_METRICS_HOST": "127.0.0.1",
            "KVCACHED_METRICS_PORT": "0",
            "KVCACHED_IPC_NAME": ipc_name,
            "FAKE_GPU": str(gpu),
            **environ,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return Program(process, ipc_name, port, gpu)


@pytest.fixture
def started() -> Iterator[list[Program]]:
    """Programs that a test adds are ended after it, with what they left in /dev/shm."""
    programs: list[Program] = []
    yield programs
    for program in programs:
        if program.process.poll() is None:
            program.process.kill()
            program.process.communicate()
        program.gpu.unlink(missing_ok=True)
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

    usage = {"limit": 40 * GIB, "used": 2 * GIB, "preallocated": GIB}
    assert (event["event"], event["kvcached"]) == ("ready", usage)
    assert health == 200
    assert f'kvcached_used_bytes{{ipc="{program.ipc_name}"}} {2 * GIB}' in metrics
    assert code == 0


def test_memory_that_follows_the_load_is_the_proof(started: list[Program]) -> None:
    """Small when idle, more under load, given back after it; the metrics say all three."""
    started.append(program := start("none"))

    event = program.ready()
    _, metrics = get(f"{event['metrics']}/metrics")

    memory = event["memory"]
    assert isinstance(memory, dict)
    assert memory["idle"] == 17 * GIB
    assert memory["idle"] < memory["capacity"]
    assert memory["loaded"] >= memory["idle"] + memory["load_bytes"] / 2
    assert memory["released"] <= memory["idle"] + memory["load_bytes"] / 2
    assert f'kvcached_memory_follows_load{{ipc="{program.ipc_name}"}} 1' in metrics


def test_a_segment_and_a_patch_log_prove_nothing(started: list[Program]) -> None:
    """KVCached 0.1.5 in vLLM 0.26 had both, and 133 GB that were allocated statically."""
    started.append(program := start("static"))

    code, errors = program.ended()

    assert code == 1
    assert "vLLM serves without KVCached: GPU memory grew by 0.0 GiB under a load of" in errors
    assert "idle: 56.0 GiB used" in errors
    assert "the KV cache is allocated statically" in errors
    assert "Traceback" not in errors


def test_memory_that_is_not_given_back_is_not_shared(started: list[Program]) -> None:
    """It would be lent once, to the engine that is loaded first."""
    started.append(program := start("hoards"))

    code, errors = program.ended()

    assert code == 1
    assert "of it was not given back" in errors


def test_an_engine_that_cannot_be_loaded_cannot_be_proven(started: list[Program]) -> None:
    """The answer of the engine is quoted."""
    started.append(program := start("pooling"))

    code, errors = program.ended()

    assert code == 1
    assert "KVCached cannot be proven" in errors
    assert "404" in errors


def test_a_second_engine_fits_and_both_are_proven(started: list[Program]) -> None:
    """Their KV caches together are larger than the GPU; proofs on one GPU take turns."""
    started.append(first := start("none"))
    started.append(second := start("none", FAKE_GPU=str(first.gpu)))

    events = [first.ready(), second.ready()]

    assert [event["event"] for event in events] == ["ready", "ready"]
    assert int(first.gpu.read_text()) * 1024**2 == 34 * GIB


@pytest.mark.parametrize(
    ("kvcached", "vllm", "runner", "said"),
    [
        ("0.1.5", "0.26.0", "1", "allocates its KV cache statically, without an error"),
        ("0.1.5", "0.26.0", "", "Unsupported kv cache shape"),
        ("0.1.6", "0.26.0", "1", "set VLLM_USE_V2_MODEL_RUNNER=0"),
        ("0.1.6", "0.31.0", "1", "has no adapter in KVCached"),
    ],
)
def test_pairs_known_not_to_work_are_refused_before_they_start(
    started: list[Program], tmp_path: Path, kvcached: str, vllm: str, runner: str, said: str
) -> None:
    """By what the engine's own Python has installed."""
    environ = {"PYTHONPATH": os.pathsep.join([install(tmp_path, kvcached, vllm), *sys.path])}
    started.append(program := start("none", **environ, VLLM_USE_V2_MODEL_RUNNER=runner))

    code, errors = program.ended()

    assert code == 2
    assert said in errors
    assert "model runner V2" not in errors


def test_the_pair_that_was_measured_serves(started: list[Program], tmp_path: Path) -> None:
    """KVCached 0.1.6 in vLLM 0.26 needs the V1 runner, which is chosen for it."""
    environ = {"PYTHONPATH": os.pathsep.join([install(tmp_path, "0.1.6", "0.26.0"), *sys.path])}
    started.append(program := start("none", **environ))

    program.ready()
    _, errors = program.stop()

    assert "model runner V2: 0" in errors


def install(folder: Path, kvcached: str, vllm: str) -> str:
    """Put the metadata of both packages into *folder*, as pip does."""
    for name, version in (("kvcached", kvcached), ("vllm", vllm)):
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return str(folder)


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
