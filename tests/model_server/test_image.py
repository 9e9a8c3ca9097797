"""What only the image shows: the seed's names in it, and a volume without room.

That it starts, answers and stops is asked of every image (tests/images).
"""

import re
import subprocess
from collections.abc import Sequence

import pytest

from tests.images.docker import need_daemon
from tests.support.gated_hub import MODEL, hub, hub_files
from tests.support.model_archive import safetensors

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

IMAGE = "model_server"
TOKEN = "hf_" + "TokenOfTheStandInThatOpensItsModel"

READ_ONLY = ("--read-only", "--tmpfs", "/tmp:exec")  # noqa: S108


@pytest.fixture(scope="session", autouse=True)
def daemon() -> None:
    need_daemon()


def _run(*options: str, command: Sequence[str] = (), **environ: str) -> tuple[int, str]:
    """Run the image to its end; return its exit code and all that it wrote."""
    variables = [word for pair in environ.items() for word in ("--env", "=".join(pair))]
    run = subprocess.run(  # noqa: S603
        ("docker", "run", "--rm", *options, *variables, IMAGE, *command),  # noqa: S607
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return run.returncode, run.stdout


@pytest.mark.parametrize("script", ["start_server.py", "download_model.py"])
def test_seeds_scripts_still_work(script: str) -> None:
    """`python3 start_server.py`, as the seed's image and its users call it."""
    code, said = _run(
        *READ_ONLY, "--entrypoint", "python3", command=[script], MODEL_NAME="/app/models/absent"
    )

    assert code == 2
    assert "error: the model folder '/app/models/absent' does not exist" in said


def test_check_finds_the_cpu_build() -> None:
    """The base of these tests is vLLM for the CPU; there is no model, and the hub is not asked."""
    code, said = _run(*READ_ONLY, command=["check"], HF_HUB_OFFLINE="1")

    assert code == 1
    assert "ok      device        CPU" in said
    assert "FAILED  model" in said


def test_model_is_kept_on_a_volume_that_is_large_enough() -> None:
    """By a user that is not root, under a root that is read-only."""
    with hub(TOKEN) as gated:
        code, said = _download(gated.url, "128m")

    assert code == 0, said
    assert '"event": "downloaded"' in said


def test_volume_that_is_too_small_is_told_before_the_download() -> None:
    """A file system of 1 MiB, and a model of four."""
    files = {**hub_files(), "model.safetensors": safetensors(bytes(4 * 2**20))}
    with hub(TOKEN, files) as large:
        code, said = _download(large.url, "1m")

    assert code == 2
    assert re.search(
        rf"{MODEL}@\S+ needs 0\.\d+ GB more than /models has free; enlarge the volume", said
    )
    assert not any("/resolve/" in path for path in large.asked)
    assert TOKEN not in said


def _download(endpoint: str, size: str) -> tuple[int, str]:
    volume = ("--tmpfs", f"/models:size={size},uid=10001,gid=10001", "--network", "host")
    return _run(
        *READ_ONLY,
        *volume,
        command=["download"],
        MODEL_NAME=MODEL,
        HF_ENDPOINT=endpoint,
        HF_TOKEN=TOKEN,
    )
