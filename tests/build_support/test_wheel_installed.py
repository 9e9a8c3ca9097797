"""The wheel as users get it: checked by twine, installed by pip and by uv, each program started."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

import pytest

from servekit.cli.version import VERSION

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "src/python/pyproject.toml").read_text())["project"]
SCRIPTS = sorted(PROJECT["scripts"])
# The package that a script is of, where the two are named differently.
EXTRAS = {
    "servekit-baseline-lb": "loadbalancer",
    "servekit-managed-lb": "loadbalancer",
    "servekit-embeddings": "modal-embedding",
    "servekit-embeddings-local": "modal-embedding",
}
WITH_PROGRAM = sorted({EXTRAS.get(name, name.removeprefix("servekit-")) for name in SCRIPTS})

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("uv") is None, reason="no uv on the PATH; pip install uv"),
]


def built(pattern: str) -> Path:
    """Where Pants put it: into the test's sandbox, or into dist."""
    found = [*ROOT.glob(pattern), *(ROOT / "dist").glob(pattern)]
    if not found:
        pytest.skip("no wheel was built; ./pants package src/python:wheel")
    return found[0]


def run(*command: str | Path, **environ: str) -> str:
    done = subprocess.run(  # noqa: S603
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        cwd="/",
        env={**{n: v for n, v in os.environ.items() if not n.startswith("PYTHON")}, **environ},
    )
    assert done.returncode == 0, f"{command}: {done.stdout}"
    return done.stdout


def install(tool: str, home: Path, extra: str) -> Path:
    """An empty environment with the wheel and one extra in it; returns its folder of scripts."""
    wheel = f"{built('servekit-*.whl')}[{extra}]"
    python = home / "bin/python"
    if tool == "uv":
        run("uv", "venv", "--quiet", "--python", sys.executable, home)
        run("uv", "pip", "install", "--quiet", "--python", python, wheel)
    else:
        run(sys.executable, "-m", "venv", home)
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    return home / "bin"


@pytest.mark.parametrize("tool", ["uv", "pip"])
@pytest.mark.parametrize("extra", WITH_PROGRAM)
def test_a_program_starts_where_nothing_else_is_installed(
    tool: str, extra: str, tmp_path: Path
) -> None:
    """Its extra brings all that it imports, and one name comes into the environment."""
    scripts = install(tool, tmp_path / "env", extra)

    for name in SCRIPTS:
        if EXTRAS.get(name, name.removeprefix("servekit-")) != extra:
            continue
        assert run(scripts / name, "--version") == f"{name} {VERSION}\n"
        if name != "servekit-cog-predictor":  # Cog's server, which wants a model
            assert "Usage" in run(scripts / name, "--help", COLUMNS="200")
    packages = next((tmp_path / "env/lib").glob("python*/site-packages"))
    ours = {path.name for path in packages.iterdir() if "servekit" in path.name}
    assert len(ours) == 2
    assert not (packages / "bench").exists()


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    """The script of a program whose packages were not asked for says how to get them."""
    scripts = install("uv", tmp_path / "env", "wire")

    done = subprocess.run(  # noqa: S603
        (scripts / "servekit-bench", "--help"), capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "pip install 'servekit[bench]'" in done.stderr


def test_a_simulated_fleet_answers_from_the_wheel(tmp_path: Path) -> None:
    """Data files came along: the fleet, and the profile of the engine."""
    scripts = install("uv", tmp_path / "env", "simulator")
    argv = (scripts / "servekit-simulator", "--ports", "auto", "--only", "qwen-7b-2")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as fleet:  # noqa: S603
        try:
            assert fleet.stdout is not None
            ready = json.loads(fleet.stdout.readline())
            with urllib.request.urlopen(f"{ready['endpoints']}/v1/models", timeout=20) as answer:  # noqa: S310
                models = json.load(answer)["data"]
        finally:
            fleet.terminate()

    assert models


@pytest.mark.parametrize("pattern", ["servekit-*.whl", "servekit-*.tar.gz"])
def test_twine_finds_nothing(pattern: str) -> None:
    """The metadata is complete, and the page renders."""
    assert "PASSED" in run("uv", "tool", "run", "twine", "check", "--strict", built(pattern))


VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read())
sys.exit(fault and str(fault))
"""


@pytest.fixture(scope="session")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with CycloneDX's own validator."""
    home = tmp_path_factory.mktemp("schema") / "env"
    run("uv", "venv", "--quiet", "--python", sys.executable, home)
    python = home / "bin/python"
    run(
        "uv",
        "pip",
        "install",
        "--quiet",
        "--python",
        python,
        "cyclonedx-python-lib[json-validation]",
    )
    return python


@pytest.mark.parametrize("extra", WITH_PROGRAM)
def test_the_bill_of_materials_keeps_to_the_schema(
    schema: Path, extra: str, tmp_path: Path
) -> None:
    """CycloneDX's own, and all that was installed is in it."""
    file = tmp_path / "sbom.json"
    file.write_text(run(sys.executable, ROOT / "build-support/release/sbom", extra))

    run(schema, "-c", VALIDATE, file)

    environment = install("uv", tmp_path / "env", extra).parent / "bin/python"
    listed = json.loads(
        run("uv", "pip", "list", "--quiet", "--format", "json", "--python", environment)
    )
    names = {one["name"] for one in listed} - {"servekit"}
    assert names == {one["name"] for one in json.loads(file.read_text())["components"]}
