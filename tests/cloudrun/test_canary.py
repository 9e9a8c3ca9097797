"""Secrets of every kind, put in at every door of a container, are found at no exit.

Doors: variables of ours and of others, ENGINE_ARGS, the model's URL, the engine's own log lines,
clients' headers, queries and paths.  Exits: stderr and stdout, the arguments and the environment of
every process, every page, errors, the timeline, the noted compile key, the captured cache.
"""

import io
import sys
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from servekit.launch.keeper import descendants
from tests.cloudrun.container import container, container_environment
from tests.model_server.node import model_server
from tests.servekit.secrets.corpus import LINES, TOKENS, sample
from tests.support.container_program import ENGINE, EXTRA_ROUTES, Container, write_snapshot
from tests.support.file_server import file_server
from tests.support.model_archive import model_files, tar

# By themselves these are words; their line masks them, which the corpus' own tests hold.
_LEAST_CHARS = 12

OURS = {
    "HF_TOKEN": "hf_canary01qXwZrTyUiOpAsDfGhJkLzXcVb",
    "VLLM_API_KEY": "canary02-front-key",
    "AWS_ACCESS_KEY_ID": "AKIACANARY03CANARY03",
    "AWS_SECRET_ACCESS_KEY": "canary04/secret+access",
    "AWS_SESSION_TOKEN": "canary05session",
    "DB_PASSWORD": "canary06 has blanks",
    "OTLP_HEADERS_AUTHORIZATION": "Bearer canary07bearer",
    "HTTPS_PROXY": "http://user:canary08proxy@127.0.0.1:9",
    "SLACK_WEBHOOK_URL": "https://hooks.slack.com/services/T0/B0/canary09hook",
    "REDIS_URL": "redis://:canary10redis@127.0.0.1:6379/0",
}
CLIENTS = ("canary20-wrong-key", "canary21-in-a-query", "canary22-in-a-path")


def _kinds() -> list[tuple[str, str]]:
    """A text of each kind in the corpus, and each secret in it."""
    made = [sample(text, seed=3) for text in (*TOKENS.values(), *LINES.values())]
    # An engine's log is masked line by line, as it comes.
    made = [one for one in made if "\n" not in one.text]
    return [(one.text, secret) for one in made for secret in one.secrets]


KINDS = _kinds()


def _values() -> list[str]:
    """What must be found nowhere."""
    own = [value.removeprefix("Bearer ") for value in OURS.values()]
    own = [value.rpartition("://")[2].partition("@")[0].lstrip(":") for value in own]
    own[list(OURS).index("SLACK_WEBHOOK_URL")] = "canary09hook"
    corpus = [secret for _, secret in KINDS if len(secret) >= _LEAST_CHARS]
    return [*own, *CLIENTS, *_keys(), *corpus]


def _keys() -> list[str]:
    """A key for ENGINE_ARGS of every kind of token."""
    secrets = [sample(text, seed=4).secrets[0] for text in TOKENS.values()]
    return [f"k{secret}" for secret in secrets if len(secret) >= _LEAST_CHARS]


def _engine_args() -> str:
    keys = " ".join(f"'{key}'" for key in _keys())
    return f"--seed 7 --api-key {keys} --hf-token hf_canary30qXwZrTyUiOpAsDfGhJkLzXcVb"


def _talkative_engine(folder: Path) -> str:
    """The fake engine, after it has logged a line of every kind."""
    (folder / "said.txt").write_text("\n".join(text for text, _ in KINDS) + "\n")
    script = folder / "engine.py"
    script.write_text(
        "import runpy, sys\n"
        f"sys.stderr.write(open({str(folder / 'said.txt')!r}).read())\n"
        "sys.stderr.flush()\n"
        f"sys.argv[0] = {str(ENGINE)!r}\n"
        f"runpy.run_path({str(ENGINE)!r}, run_name='__main__')\n"
    )
    return f"{sys.executable} {script}"


@dataclass
class Exits:
    """Everything that came out, by where."""

    found: dict[str, str] = field(default_factory=dict)

    def leaks(self, secrets: Iterable[str]) -> list[tuple[str, str]]:
        return [
            (where, one) for one in secrets for where, text in self.found.items() if one in text
        ]

    async def ask(self, running: Container, path: str, **headers: str) -> None:
        url = f"http://127.0.0.1:{await running.port()}{path}"
        async with aiohttp.ClientSession() as session:
            for method in ("GET", "POST"):
                async with session.request(method, url, headers=headers, data=b"{") as answer:
                    text = f"{answer.status} {dict(answer.headers)} {await answer.text()}"
                    where = f"{method} {path} {'with a key' if headers else ''}"
                    self.found[where] = text

    def look_at_processes(self, running: Container) -> None:
        for pid in (running.process.pid, *descendants(running.process.pid)):
            for name in ("cmdline", "environ"):
                with suppress(OSError):
                    content = Path(f"/proc/{pid}/{name}").read_bytes()
                    self.found[f"{name} of {pid}"] = content.decode(errors="replace")

    def look_at_files(self, folder: Path) -> None:
        for path in folder.rglob("*"):
            if path.is_file() and path.name not in ("said.txt", "engine.py"):
                self.found[str(path)] = "\n".join(_contents(path.read_bytes()))

    def hear(self, running: Container) -> None:
        self.found["stderr"] = "\n".join(running.log)
        self.found["stdout"] = "\n".join(running.printed)


def _contents(content: bytes) -> Iterator[str]:
    """A file, and what an archive holds."""
    yield content.decode(errors="replace")
    with suppress(tarfile.TarError), tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            yield member.name
            if file := archive.extractfile(member):
                yield file.read().decode(errors="replace")


PAGES = (
    *("/startup", "/startup/metrics", "/health", "/metrics", "/v1/models", "/version", "/ping"),
    *("/v1/completions", "/v1/chat/completions", "/invocations", "/tokenize", "/environment"),
    *("/arguments", "/sleep", "/docs", f"/v1/models?api_key={CLIENTS[1]}&sig={CLIENTS[1]}"),
    *(f"/health?token={CLIENTS[1]}", "/v1/absent"),
)


async def test_no_secret_leaves_a_container(tmp_path: Path) -> None:
    """More than 130 kinds at once; the requests are answered meanwhile."""
    write_snapshot(tmp_path / "hf")
    secrets = _values()
    exits = Exits()
    async with container(
        tmp_path,
        **OURS,
        ENGINE_COMMAND=_talkative_engine(tmp_path),
        ENGINE_ARGS=_engine_args(),
        COMPILE_CACHE_CAPTURE=str(tmp_path / "captured"),
        TORCH_CUDA_ARCH_LIST="8.9",
        EXTRA_ROUTES=EXTRA_ROUTES,
    ) as running:
        await running.url()
        for path in PAGES:
            await exits.ask(running, path)
            await exits.ask(running, path, Authorization=f"Bearer {CLIENTS[0]}")
            await exits.ask(running, path, Authorization=f"Bearer {OURS['VLLM_API_KEY']}")
        exits.look_at_processes(running)
        running.terminate()
        await running.ended()
        exits.hear(running)
    exits.look_at_files(tmp_path)

    assert exits.leaks(secrets) == []
    assert len(secrets) > 130
    assert "200" in exits.found["GET /v1/models with a key"]
    assert any("said" not in name and "cmdline" in name for name in exits.found)


async def test_no_secret_of_a_models_url_leaves_a_node(tmp_path: Path) -> None:
    """User, password and signature: the model is fetched by them, and served under its name."""
    async with file_server({"/m/good.tar": tar(model_files())}) as server:
        login = server.url.replace("http://", "http://user:canary40pw@")
        exits = Exits()
        async with model_server(
            tmp_path,
            MODEL_NAME=f"{login}/m/good.tar?sig=canary41sig&X-Amz-Signature=canary42amz",
            HF_HUB_OFFLINE="0",
            ENGINE_COMMAND=f"{sys.executable} {ENGINE}",
        ) as running:
            await running.url()
            for path in PAGES:
                await exits.ask(running, path)
            exits.look_at_processes(running)
            running.terminate()
            await running.ended()
            exits.hear(running)
        exits.look_at_files(tmp_path)

    assert exits.leaks(["canary40pw", "canary41sig", "canary42amz"]) == []
    assert "good" in exits.found["GET /v1/models "]


@pytest.mark.parametrize(
    "wrong",
    ["PORT", "MAX_MODEL_LEN", "DTYPE", "SKIP_PREWARM", "GPU_MEMORY_UTILIZATION", "MODEL_NAME"],
)
async def test_no_secret_in_the_wrong_variable_is_shown(tmp_path: Path, wrong: str) -> None:
    """The refusal names the variable, and shows no token; it ends in one line."""
    write_snapshot(tmp_path / "hf")
    token = OURS["HF_TOKEN"]
    value = f"https://user:canary50pw@host/m.tar?sig={token}" if wrong == "MODEL_NAME" else token
    async with container(tmp_path, **{wrong: value}) as running:
        said = await running.refused() if wrong != "DTYPE" else ""
        if wrong == "DTYPE":
            running.terminate()
            await running.ended()
        everything = "\n".join([*running.log, *running.printed])

    assert token not in everything
    assert "canary50pw" not in everything
    assert said or wrong == "DTYPE"


def test_environment_of_the_test_has_every_door() -> None:
    """What the front reads beside our canaries is what every other test sets."""
    assert set(OURS).isdisjoint(container_environment(Path("/x")))
