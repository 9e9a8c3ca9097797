"""The folder that `cog build` is given."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from tests.cog_predictor.cog_server import FLAT_FOLDER, REPOSITORY

MAKE_FOLDER = REPOSITORY / "src/python/cog_predictor/make_folder.py"

# `run.py` and `train.py`, and where each module of ours that they brought came from.
IMPORT_ALL = """
import sys, run, train, predict, cog_predictor.serve, cog_predictor.schema
for name, module in list(sys.modules.items()):
    if name.partition(".")[0] in ("cog_predictor", "servekit") and module.__file__:
        print(module.__file__)
"""


def _cog_yaml() -> dict[str, object]:
    return msgspec.yaml.decode((FLAT_FOLDER / "cog.yaml").read_text(), type=dict[str, object])


def _made(folder: Path) -> Path:
    """The folder as somebody makes it who has a clone and Python, and no package."""
    subprocess.run(  # noqa: S603
        [sys.executable, "-I", "-S", MAKE_FOLDER, folder], check=True, capture_output=True, cwd="/"
    )
    return folder


def test_the_folder_is_whole_without_pants_or_packages(tmp_path: Path) -> None:
    """What `cog build` copies imports nothing of ours from anywhere else."""
    folder = _made(tmp_path / "llama")
    names = {"cog.yaml", "run.py", "predict.py", "train.py", "requirements.txt", "pyproject.toml"}
    ours = subprocess.run(  # noqa: S603
        [sys.executable, "-c", IMPORT_ALL],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": _without_ours()},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()

    assert names | {"test.sh", "predictor_config.json"} <= {path.name for path in folder.iterdir()}
    assert ours
    assert all(Path(path).is_relative_to(folder) for path in ours)


def test_the_tests_of_the_folder_run_in_it(tmp_path: Path) -> None:
    """`pytest tests/unit`, where cog-vllm had its tests."""
    folder = _made(tmp_path / "llama")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{folder}:{_without_ours()}"},
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout
    assert re.search(r"[4-9] passed, 3 skipped", done.stdout), done.stdout


def test_requirements_are_what_pyproject_asks_for() -> None:
    """Each dependency of pyproject.toml is pinned in requirements.txt; vLLM comes by cog.yaml."""
    wanted = tomllib.loads((FLAT_FOLDER / "pyproject.toml").read_text())["project"]["dependencies"]
    pinned = (FLAT_FOLDER / "requirements.txt").read_text()

    for requirement in wanted:
        name = re.split(r"[^\w-]", requirement)[0]
        assert re.search(rf"^{name}==\d", pinned, re.MULTILINE), name
    assert "vllm" not in pinned


def _without_ours() -> str:
    return os.pathsep.join(path for path in sys.path if path and "site-packages" in path)


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
    """Python, Cog and vLLM are of one version each, for the GPUs that Replicate has."""
    text = (FLAT_FOLDER / "cog.yaml").read_text()

    assert 'python_version: "3.13"' in text
    assert re.search(r'sdk_version: "0\.23\.\d+"', text)
    assert re.search(r"pip install vllm==\d+\.\d+\.\d+", text)
    assert 'TORCH_CUDA_ARCH_LIST="8.0;8.6;9.0"' in text


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
