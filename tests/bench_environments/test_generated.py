"""What is made from the fleet files is as they say; nobody may change the one without the other."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench.target.arms import ENVIRONMENTS as MEASURED
from bench_environments.deployment import ENVIRONMENTS
from bench_environments.engines import VLLM_VERSION
from bench_environments.generated import generated_files
from servekit.fleet.fleet import load_fleet
from tests.bench_environments.host import Host
from tests.support.shell_scripts import lint, needs_shellcheck

ROOT = Path(__file__).parents[2]
WORKLOAD = ROOT / "src/python/bench/workload/builtin/default.json"
KVCACHED = ROOT / "src/docker/kvcached/Dockerfile"


@pytest.mark.parametrize("name", generated_files())
def test_a_file_is_as_its_fleet_says(name: str) -> None:
    """Make it again with `./pants run src/python/bench_environments -- generate`."""
    assert (ROOT / name).read_text() == generated_files()[name]


def test_no_compose_file_is_made_by_hand() -> None:
    """Each in these folders has a fleet that it is made from."""
    folders = [ROOT / "src/docker" / one.folder for one in ENVIRONMENTS.values()]
    there = {str(path.relative_to(ROOT)) for folder in folders for path in folder.glob("*.yaml")}

    assert there == {name for name in generated_files() if name.endswith(".yaml")}


def test_a_change_by_hand_is_found_and_undone(tmp_path: Path) -> None:
    """`generate --check` names the file, and `generate` makes it anew."""
    name = "src/docker/bench_managed/compose.yaml"
    for file in (*generated_files(), "BUILD_ROOT"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, tmp_path / file)
    planted = (tmp_path / name).read_text().replace("8003", "8033", 1)
    (tmp_path / name).write_text(planted)
    host = Host(tmp_path)

    found = host.run("generate", "--check")
    undone = host.run("generate")

    assert (found.returncode, found.stdout) == (1, f"stale {name}\n"), found.stderr
    assert (undone.returncode, undone.stdout) == (0, f"wrote {name}\n")
    assert (tmp_path / name).read_text() == (ROOT / name).read_text()


def test_a_folder_that_is_no_repository_is_refused(tmp_path: Path) -> None:
    """Nothing is written there."""
    done = Host(tmp_path).run("generate")

    assert done.returncode == 2
    assert "is not the repository" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_benchmark_asks_where_the_environments_listen() -> None:
    """`runner --env baseline` and the deployed baseline are one place."""
    listening = {one.name: f"http://127.0.0.1:{one.port}" for one in ENVIRONMENTS.values()}

    assert listening == MEASURED


def test_the_default_workload_asks_for_the_models_of_the_default_fleet() -> None:
    """In the fleet file's order."""
    workload = msgspec.json.decode(WORKLOAD.read_bytes())

    assert workload["models"] == [model.name for model in load_fleet("h100").models]


def test_both_arms_run_one_version_of_vllm() -> None:
    """KVCached's image is built from the image that the baseline runs."""
    text = KVCACHED.read_text()

    assert f"ARG VLLM_VERSION={VLLM_VERSION}\n" in text
    assert "FROM vllm/vllm-openai:${VLLM_VERSION}\n" in text


@pytest.mark.parametrize(
    ("script", "args", "called"),
    [
        ("deploy.sh", "baseline --dry-run", "bench_environments -- deploy baseline --dry-run"),
        ("teardown.sh", "all", "bench_environments -- teardown all"),
        ("benchmark_all_models.sh", "managed 4 9", "bench:runner -- all-models managed 4 9"),
    ],
)
def test_scripts_hand_their_arguments_on(
    tmp_path: Path, script: str, args: str, called: str
) -> None:
    """From any folder, to the program that does the work."""
    assert run_script(tmp_path, f"scripts/{script}", args) == f"run src/python/{called}\n"


def test_genai_perf_runner_keeps_the_arguments_of_the_seed(tmp_path: Path) -> None:
    """ENV MODEL CONCURRENCY REQUESTS, and prompts of 512 tokens with answers of 256."""
    called = run_script(tmp_path, "benchmark/genai_perf_runner.sh", "baseline a/b 4 20 --seed 7")

    assert "-- run --env baseline --model a/b --concurrency 4 --request-count 20" in called
    assert "--synthetic-input-tokens-mean 512 --synthetic-input-tokens-stddev 128" in called
    assert called.endswith("--output-tokens-mean 256 --output-tokens-stddev 64 --seed 7\n")


def test_the_documented_command_of_the_original_works(tmp_path: Path) -> None:
    """`python3 benchmark/run.py --env baseline --num-requests 100 --concurrency 10`."""
    args = "--env baseline --num-requests 100 --concurrency 10"

    called = run_script(tmp_path, "benchmark/run.py", args)

    assert called == f"run src/python/bench:runner -- run {args}\n"


def test_genai_perf_runner_has_defaults(tmp_path: Path) -> None:
    """Ten users, a hundred requests."""
    called = run_script(tmp_path, "benchmark/genai_perf_runner.sh", "managed a/b")

    assert "--concurrency 10 --request-count 100" in called


def test_genai_perf_runner_takes_flags_that_the_runner_has() -> None:
    """All of them; a flag that is gone would stop every run."""
    script = (ROOT / "benchmark/genai_perf_runner.sh").read_text().partition("exec ")[2]
    done = subprocess.run(
        [sys.executable, "-m", "bench.runner", "run", "--help"],
        env={"PYTHONPATH": ":".join(sys.path), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
    )

    flags = set(re.findall(r"--[a-z][a-z-]+", script))
    assert len(flags) > 8
    assert flags <= set(re.findall(r"--[a-z][a-z-]+", done.stdout))


def run_script(tmp_path: Path, script: str, args: str) -> str:
    """Run a copy of *script* beside a ./pants that prints what it is called with."""
    place = tmp_path / script
    place.parent.mkdir()
    shutil.copy(ROOT / script, place)
    (tmp_path / "pants").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "pants").chmod(0o755)
    done = subprocess.run(  # noqa: S603
        [place, *args.split()], cwd="/", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_shellcheck
def test_scripts_are_clean() -> None:
    """By shellcheck."""
    scripts = [*(ROOT / "scripts").glob("*.sh"), *(ROOT / "benchmark").glob("*.sh")]

    assert len(scripts) == 4
    lint(scripts)
