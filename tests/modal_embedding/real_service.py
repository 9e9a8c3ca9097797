"""modal_embedding's `local` on the real vLLM."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai

from modal_embedding.messages.vectors import Vectors, as_vectors
from modal_embedding.test_embedding_client import client_of
from servekit.launch.keeper import die_with_parent
from tests.real_engine.environment import EngineEnvironment

KEY = "a-key-of-the-test"
MODEL = "tiny-embed"
SEED = 1

BY_HAND = Path(__file__).with_name("embed_by_hand.py")

TEXTS = [
    "a",
    "Requests come in, tokens go out.",
    "for step in range(10):\n    engine.step()\n" * 20,
    "Ein längerer Satz mit Umlauten: äöüß.",
    "猫がソファで寝ている",
    "The engine schedules, the balancer chooses, the client waits. " * 12,
]


@dataclass(frozen=True, slots=True)
class Running:
    """A running `local`."""

    url: str
    process: "subprocess.Popen[str]"

    def client(self, key: str = KEY) -> openai.OpenAI:
        return client_of({"BASE_URL": self.url, "EMBEDDING_API_KEY": key}).with_options(
            max_retries=0
        )

    def embed(self, texts: list[str], **more: object) -> Vectors:
        with self.client() as client:
            answer = client.embeddings.create(model=MODEL, input=texts, **more)  # type: ignore[arg-type]
        return as_vectors([entry.embedding for entry in answer.data])


@contextmanager
def local(environment: EngineEnvironment, model: Path, log: Path) -> Iterator[Running]:
    engine = f"{environment.python} -m vllm.entrypoints.cli.main"
    settings = {
        "EMBEDDING_API_KEY": KEY,
        "MATRYOSHKA_DIMENSIONS": "128,64",
        "MAX_MODEL_LEN": "2048",
        "SERVED_MODEL_NAME": MODEL,
    }
    with log.open("w") as stderr:
        process = subprocess.Popen(  # noqa: S603
            [
                *(sys.executable, "-m", "modal_embedding.local", "--engine", engine),
                *("--model", str(model), "--restarts", "1", "--"),
                *("--kv-cache-memory-bytes", "64M", "--max-num-seqs", "32"),
            ],
            env={**os.environ, **settings, "PYTHONPATH": path_of_ours()},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            preexec_fn=die_with_parent,
        )
    with process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, f"no ready line; the log ends with {log.read_text()[-2000:]}"
            yield Running(json.loads(line)["url"], process)
        finally:
            process.terminate()


def path_of_ours() -> str:
    return os.pathsep.join(filter(None, sys.path))


def by_hand(environment: EngineEnvironment, way: str, model: Path, **environ: str) -> Vectors:
    run = subprocess.run(  # noqa: S603
        [environment.python, BY_HAND, way, model],
        input=json.dumps(TEXTS),
        env={**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return as_vectors(json.loads(run.stdout.strip().splitlines()[-1]))
