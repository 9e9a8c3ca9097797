"""What a machine with an empty cache is brought: every part once, from nothing, and used.

A cache that holds what an earlier version brought hides a part that no longer can be made.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.real_engine.engine import ensure_model
from tests.real_engine.environment import environment_or_skip

pytestmark = [pytest.mark.empty_cache, pytest.mark.timeout(600)]

BRING = Path(__file__).parents[2] / "build-support/ci/bring.sh"
BROUGHT = ("uv", "checkov", "kubernetes-validate", "promtool", "shellcheck")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """This machine's, but for what lies in caches or was brought before."""
    programs = tmp_path / "bin"
    programs.mkdir()
    # The first of a name on the PATH wins, as the shell has it.
    for folder in map(Path, reversed(os.environ["PATH"].split(":"))):
        for program in folder.glob("*") if folder.is_dir() else ():
            link = programs / program.name
            link.unlink(missing_ok=True)
            link.symlink_to(program)
    for name in BROUGHT:
        (programs / name).unlink(missing_ok=True)
    return {**os.environ, "PATH": str(programs), "XDG_CACHE_HOME": str(tmp_path / "cache")}


def bring(environ: Mapping[str, str], *words: str) -> str:
    """Source what .ci/run sources, run *words* one after another; return what was printed."""
    script = " && ".join((f"source '{BRING}'", *words))
    run = subprocess.run(  # noqa: S603
        ("bash", "-c", script),  # noqa: S607
        env=dict(environ),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_uv_and_the_validators_answer(environ: dict[str, str]) -> None:
    """uv is brought where there is none, and each validator says its version."""
    said = bring(
        environ,
        "bring_uv",
        "bring_validators",
        "uv --version",
        "checkov --version",
        "shellcheck --version",
        "command -v kubernetes-validate",
    )

    assert "uv " in said
    assert str(environ["XDG_CACHE_HOME"]) in said


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="no apt-get: this is no Debian")
def test_prometheus_answers(environ: dict[str, str]) -> None:
    """Debian's package is unpacked, not installed."""
    said = bring(environ, "bring_prometheus", "command -v promtool", "promtool --version")

    assert environ["XDG_CACHE_HOME"] in said
    assert "promtool, version" in said


def test_a_tool_that_cannot_be_brought_is_named(environ: dict[str, str], tmp_path: Path) -> None:
    """What failed, and the exit code says so."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "dirname", "id"):
        (programs / name).symlink_to(shutil.which(name) or "")
    run = subprocess.run(  # noqa: S603
        (str(programs / "bash"), "-c", f"source '{BRING}' && bring_prometheus"),
        env={**environ, "PATH": str(programs)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 1
    assert "promtool: no apt-get here" in run.stderr


def test_the_real_engine_and_its_models_are_made(environ: dict[str, str]) -> None:
    """vLLM is installed, and both tiny models are made by it: their files are whole."""
    uv = bring(environ, "bring_uv", "command -v uv").strip()
    environ["PATH"] = f"{Path(uv).parent}:{environ['PATH']}"
    environment = environment_or_skip(environ)

    models = [ensure_model(environment, seed) for seed in (0, 1)]

    for model in models:
        names = {path.name for path in model.iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    weights = [(model / "model.safetensors").read_bytes() for model in models]
    assert weights[0] != weights[1]
