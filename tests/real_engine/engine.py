"""Start and stop real vLLM engines on this machine's CPU.  Runs processes."""

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.real_engine.environment import HERE, EngineEnvironment, EngineUnavailable, locked

# An eager start takes 27 s on two idle cores, and was seen to take 69 s on busy ones.
READY_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine is to serve.

    Attributes:
        name: the served model's name.
        seed: of the tiny model's weights.
        args: more arguments of `vllm serve`.
    """

    name: str = "tiny"
    seed: int = 0
    args: tuple[str, ...] = ()


GENERATE = EngineSpec()
POOLING = EngineSpec(name="tiny-embed", seed=1, args=("--runner", "pooling", "--convert", "embed"))

COMMON_ARGS = (
    *("--max-model-len", "2048", "--max-num-seqs", "32"),
    *("--enforce-eager", "--kv-cache-memory-bytes", "64M"),
)


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine.

    Attributes:
        url: without a path, such as http://127.0.0.1:34567.
        model: the served model's name.
        process: the API server; the engine's core is its child.
    """

    url: str
    model: str
    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """End it and its core as the kernel would: no word to anybody."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def ensure_model(environment: EngineEnvironment, seed: int) -> Path:
    """Return the folder of a tiny model; make it first where it is missing."""
    folder = environment.home / f"tiny-llama-{seed}"
    with locked(environment.home / "models.lock"):
        if not folder.is_dir():
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            _make_model(environment, partial, seed)
            partial.rename(folder)
    return folder


def _make_model(environment: EngineEnvironment, folder: Path, seed: int) -> None:
    # -P: what stands beside the script must not hide a module of the same name.
    made = subprocess.run(  # noqa: S603
        (environment.python, "-P", HERE / "make_tiny_model.py", folder, str(seed)),
        check=False,
        capture_output=True,
        text=True,
    )
    if made.returncode != 0:
        raise RuntimeError(f"make_tiny_model.py exited with {made.returncode}:\n{made.stderr}")


@contextmanager
def running_engine(
    environment: EngineEnvironment, spec: EngineSpec, logs: Path, environ: Mapping[str, str]
) -> Iterator[Engine]:
    """Start an engine, wait until it serves, and stop it afterwards.

    Its log stays in *logs* when something went wrong within, and is removed otherwise.

    Raises:
        EngineUnavailable: it ended, or was not ready in time; the message has its last lines.
    """
    model = ensure_model(environment, spec.seed)
    with ExitStack() as stack:
        port = stack.enter_context(reserved_port())
        log = logs / f"{spec.name}-{port}.log"
        process = _start(environment, model, spec, port, log, environ)
        stack.callback(_stop, process)
        engine = Engine(f"http://127.0.0.1:{port}", spec.name, process, log)
        _wait_until_ready(engine)
        yield engine
    log.unlink()


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port that is ours as long as we are in here.

    We stay bound to it without listening.  vLLM binds with SO_REUSEADDR, as we do, and so may share
    it; the kernel gives it to nobody who asks for any free port.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def command_of(
    environment: EngineEnvironment, model: Path, spec: EngineSpec, port: int
) -> list[str]:
    # setpriv: should this process be killed, the kernel ends the engine too.
    guard = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    serve = [str(environment.python), "-m", "vllm.entrypoints.cli.main", "serve", str(model)]
    where = ["--served-model-name", spec.name, "--host", "127.0.0.1", "--port", str(port)]
    return [*guard, *serve, *where, *COMMON_ARGS, *spec.args]


def _start(
    environment: EngineEnvironment,
    model: Path,
    spec: EngineSpec,
    port: int,
    log: Path,
    environ: Mapping[str, str],
) -> subprocess.Popen[bytes]:
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    with log.open("wb") as file:
        return subprocess.Popen(  # noqa: S603
            command_of(environment, model, spec, port),
            env={**environ, **offline},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait_until_ready(engine: Engine) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if engine.process.poll() is not None:
            raise _not_ready(engine, f"it ended with code {engine.process.returncode}")
        if answers(engine.url):
            return
        time.sleep(0.25)
    raise _not_ready(engine, f"it does not answer after {READY_TIMEOUT_S:.0f} s")


def answers(url: str) -> bool:
    """Whether /health says 200."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _not_ready(engine: Engine, why: str) -> EngineUnavailable:
    tail = "\n".join(engine.log.read_text(errors="replace").splitlines()[-15:])
    return EngineUnavailable(f"{engine.model} is not ready: {why}; {engine.log} ends with\n{tail}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL to the whole group for whoever is left."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
    finally:
        # The core, should it have outlived the server.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
