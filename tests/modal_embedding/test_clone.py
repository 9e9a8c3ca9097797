"""What somebody types who has a clone, Python and `pip install -r requirements.txt`: no Pants."""

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from modal_embedding import test_embedding_client
from tests.support.modal_control_plane import control_plane
from tests.support.modal_front import fronted_engine

SOURCES = Path(str(test_embedding_client.__file__)).parents[1]

MODAL = {
    "MODAL_TOKEN_ID": "ak-test",
    "MODAL_TOKEN_SECRET": "as-test",
    "MODAL_CONFIG_PATH": "/nonexistent",
}


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    """The folder of a clone in which the two original files lie."""
    for name in ("modal_embedding", "servekit"):
        shutil.copytree(
            SOURCES / name,
            tmp_path / "src/python" / name,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    return tmp_path / "src/python/modal_embedding"


async def _typed(folder: Path, *command: str, **environ: str) -> tuple[int, str]:
    """Run Python in *folder*, with the installed packages and nothing of ours on its path."""
    packages = [path for path in sys.path if "site-packages" in path]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *command),
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder.parent),
            "PYTHONPATH": os.pathsep.join(packages),
            **environ,
        },
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def test_the_app_deploys_by_its_original_name(folder: Path) -> None:
    """`modal deploy modal_vllm_embedding_with_snapshot.py`, from that folder."""
    async with control_plane() as plane:
        command = ("-m", "modal", "deploy", "modal_vllm_embedding_with_snapshot.py")
        code, said = await _typed(folder, *command, **MODAL, MODAL_SERVER_URL=plane.url)

    assert code == 0, said
    assert "VLLMEmbeddingSnapshot" in said


async def test_the_client_asks_an_endpoint_by_its_original_name(folder: Path) -> None:
    """`python test_embedding_client.py`, from that folder."""
    async with fronted_engine(key="k") as (url, _):
        environ = {"BASE_URL": url, "EMBEDDING_API_KEY": "k", "MODEL_NAME": "tiny"}
        code, said = await _typed(folder, "test_embedding_client.py", **environ)

    assert code == 0, said
    assert said.startswith("single: 16 dimensions")


@pytest.mark.parametrize("module", ["main", "local"])
async def test_the_programs_start_without_being_installed(folder: Path, module: str) -> None:
    """`python -m modal_embedding.main`, from src/python."""
    code, said = await _typed(folder.parent, "-m", f"modal_embedding.{module}", "--help")

    assert code == 0, said
    assert "Usage" in said


@pytest.mark.parametrize(
    "name", ["modal_vllm_embedding_with_snapshot.py", "test_embedding_client.py"]
)
async def test_what_is_missing_is_said_with_the_line_that_brings_it(
    folder: Path, name: str
) -> None:
    """One line, and no traceback."""
    code, said = await _typed(folder, "-S", name, PYTHONPATH="")

    assert code == 1
    assert re.fullmatch(r"No module named '\w+': pip install -r .+/requirements.txt\n", said), said


def test_instructions_name_nothing_that_is_not_there() -> None:
    """A package of ours on PyPI would be somebody else's: there has been no release."""
    texts = {
        path: path.read_text()
        for path in [*(SOURCES / "modal_embedding").rglob("*.py"), *SOURCES.glob("*/README.md")]
    }

    assert [path for path, text in texts.items() if "pip install servekit" in text] == []
    for text in texts.values():
        for target in re.findall(r"src/python/modal_embedding:(\w+)", text):
            build = (SOURCES / "modal_embedding/BUILD").read_text()
            assert f'name="{target}"' in build
