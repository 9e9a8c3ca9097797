"""Whether a build bakes the model: the Dockerfile's own lines, run with a program that notes it."""

import re
import subprocess
from pathlib import Path

import pytest

DOCKERFILE = Path(__file__).parents[2] / "src/docker/cloudrun/Dockerfile"


def _build(folder: Path, bake: str, token: str, *, fails: bool = False) -> tuple[int, str, str]:
    """Run the step; return its exit code, what it said, and the token that the download saw."""
    program, secret, seen = folder / "pex", folder / "secret", folder / "seen"
    program.write_text(
        f'#!/bin/sh\n[ "$HF_HUB_OFFLINE" = 0 ] && echo "token=$HF_TOKEN" > {seen}\n'
        f"exit {int(fails)}\n"
    )
    program.chmod(0o755)
    if token:
        secret.write_text(token)
    lines = DOCKERFILE.read_text().replace("\\\n", "")
    step = re.search(r"^RUN --mount=type=secret,id=HF_TOKEN (.*)$", lines, re.MULTILINE)
    assert step is not None
    script = step[1].replace("/run/secrets/HF_TOKEN", str(secret)).replace("/app/pex", str(program))
    script = script.replace("/model-cache", str(folder / "model-cache"))
    run = subprocess.run(  # noqa: S603
        ("/bin/sh", "-c", script),
        env={"BAKE": bake, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    return run.returncode, run.stdout, seen.read_text().strip() if seen.exists() else ""


@pytest.mark.parametrize(
    ("bake", "token", "seen"),
    [
        ("auto", "hf_given", "token=hf_given"),
        ("auto", "", ""),
        ("1", "hf_given", "token=hf_given"),
        ("1", "", "token="),
        ("0", "hf_given", ""),
    ],
)
def test_model_is_baked_where_it_can_or_must_be(
    tmp_path: Path, bake: str, token: str, seen: str
) -> None:
    """`auto` bakes where there is a token, `1` always, `0` never; what was left out is said."""
    code, said, found = _build(tmp_path, bake, token)

    assert code == 0
    assert found == seen
    assert ("no model in this image" in said) is (seen == "")
    assert (tmp_path / "model-cache").is_dir()


@pytest.mark.parametrize("bake", ["auto", "1"])
def test_download_that_fails_fails_the_build(tmp_path: Path, bake: str) -> None:
    """An image without the model that it names would fail at its first start instead."""
    code, _, _ = _build(tmp_path, bake, "hf_given", fails=True)

    assert code != 0
