"""What the docker suite shares: the engine's base image with a model, and the table in the end."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.docker import base_image, docker

ROOT = Path(__file__).parents[2]

TABLE = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = [f"{'image':<16}{'MB':>6}{'start s':>9}{'stop s':>8}"]


@pytest.fixture(scope="session")
def table(pytestconfig: pytest.Config) -> list[str]:
    """Lines; a test appends its own."""
    return pytestconfig.stash[TABLE]


@pytest.fixture(scope="session")
def engine_base() -> str:
    """The name of the local base image with the real vLLM; it is made where it is missing."""
    return base_image("engine")


@pytest.fixture(scope="session")
def models(engine_base: str) -> Iterator[str]:
    """A volume with a tiny model in its folder `tiny`, made by the image itself."""
    volume = docker("volume", "create")
    script = (ROOT / "tests/real_engine/make_tiny_model.py").resolve()
    mounts = ("--volume", f"{volume}:/models", "--volume", f"{script}:/make.py:ro")
    # Cog's predictor reads its engine's arguments beside the weights: the base has no C++ compiler.
    eager = """'{"engine_args": {"enforce_eager": true, "max_model_len": 2048}}'"""
    # Weights are written for their owner alone, and no image of ours runs as that.
    make = (
        "python3 /make.py /models/tiny 0 && chmod -R a+rX /models && "
        f"echo {eager} >/models/tiny/predictor_config.json"
    )
    docker("run", "--rm", *mounts, "--entrypoint", "/bin/sh", engine_base, "-c", make)
    yield volume
    docker("volume", "rm", volume)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    lines = config.stash[TABLE]
    if len(lines) > 1:
        terminalreporter.section("images")
        for line in lines:
            terminalreporter.line(line)
