"""The folder that `cog build` is given."""

import os
import re
import subprocess
from pathlib import Path

import msgspec
import pytest

from tests.cog_predictor.cog_server import FLAT_FOLDER, REPOSITORY


def _cog_yaml() -> dict[str, object]:
    return msgspec.yaml.decode((FLAT_FOLDER / "cog.yaml").read_text(), type=dict[str, object])


def test_the_wheels_that_are_named_are_those_that_are_packed() -> None:
    """requirements.txt and the archive's list of wheels say the same, with today's version."""
    version = re.search(
        r'VERSION = "(.+)"', (REPOSITORY / "build-support/wheels.build").read_text()
    )
    packed = re.findall(
        r'"src/python/(?:servekit/)?(\w+):dist"', (FLAT_FOLDER / "BUILD").read_text()
    )
    named = re.findall(r"^\./(.+)$", (FLAT_FOLDER / "requirements.txt").read_text(), re.MULTILINE)

    assert version
    wheels = [f"servekit_{name}-{version[1]}-py3-none-any.whl" for name in packed]
    assert named == sorted(wheels)


def test_cog_is_told_what_the_runner_file_holds() -> None:
    """Every file that cog.yaml names is there, with the class or function that it names."""
    config = _cog_yaml()

    for key in ("run", "train"):
        file, _, name = str(config[key]).partition(":")
        assert re.search(rf"^(class|def) {name}\b", (FLAT_FOLDER / file).read_text(), re.MULTILINE)


def test_concurrency_is_the_same_for_building_and_for_running() -> None:
    """cog.yaml, the decorator in both faces and the image say 32."""
    config = _cog_yaml()
    dockerfile = (REPOSITORY / "src/docker/cog_predictor/Dockerfile").read_text()

    assert config["concurrency"] == {"max": 32}
    assert "COG_MAX_CONCURRENCY=32" in dockerfile
    for face in ("run.py", "predict.py"):
        assert "@cog.concurrent(max=32)" in (FLAT_FOLDER / face).read_text()


def test_what_is_built_is_pinned() -> None:
    """Python, Cog, vLLM and pget are of one version each, for the GPUs that Replicate has."""
    text = (FLAT_FOLDER / "cog.yaml").read_text()

    assert 'python_version: "3.13"' in text
    assert re.search(r'sdk_version: "0\.23\.\d+"', text)
    assert re.search(r"pip install vllm==\d+\.\d+\.\d+", text)
    assert 'TORCH_CUDA_ARCH_LIST="8.0;8.6;9.0"' in text
    assert re.search(r"pget/releases/download/v\d", text)


FAKE_COG = """#!/bin/sh
cat predictor_config.json >> "$SEEN"
case "$*" in
  *"prompt= "* | *"prompt=") echo "E1001 PromptRequired" >&2; exit 1 ;;
esac
$THEN
"""


def _run_test_sh(folder: Path, then: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run test.sh with a `cog` that notes the configuration it sees, and then does *then*."""
    program = folder / "bin/cog"
    program.parent.mkdir()
    program.write_text(FAKE_COG.replace("$THEN", then))
    program.chmod(0o755)
    seen = folder / "seen"
    done = subprocess.run(  # noqa: S603
        [FLAT_FOLDER / "test.sh"],
        env={"PATH": f"{program.parent}:{os.environ['PATH']}", "SEEN": str(seen)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, seen.read_text()


@pytest.mark.parametrize(
    ("then", "passes"),
    [("echo once", True), ("exit 3", False), ("echo", False), ("kill -9 $PPID", False)],
)
def test_the_end_to_end_test_leaves_the_configuration_as_it_was(
    tmp_path: Path, then: str, passes: bool
) -> None:
    """It wants no CUDA graphs, and gets them back even if it is killed."""
    before = (FLAT_FOLDER / "predictor_config.json").read_text()

    done, seen = _run_test_sh(tmp_path, then)

    assert (done.returncode == 0) is passes, done.stderr
    assert '"enforce_eager": true' in seen
    assert (FLAT_FOLDER / "predictor_config.json").read_text() == before
