"""Which Python runs the engine's command, and what it has."""

import sys
from pathlib import Path

import pytest

from kvcached_engine.installed import installed_versions, interpreter_of, without_env


@pytest.mark.parametrize(
    ("first", "python"),
    [
        ("#!/usr/bin/python3.12\n", "/usr/bin/python3.12"),
        ("#!/usr/bin/env python3\n", "python3"),
        ("#!/bin/bash\n", None),
        ("\x7fELF", None),
        ("", None),
    ],
)
def test_a_script_names_its_interpreter(tmp_path: Path, first: str, python: str | None) -> None:
    """As pip writes the script `vllm`; a program of another kind has none."""
    script = tmp_path / "vllm"
    script.write_text(first)
    script.chmod(0o755)

    assert interpreter_of([str(script)], {"PATH": ""}) == python


def test_an_environment_before_the_command_counts() -> None:
    """`env PYTHONPATH=... python3 -m vllm...` has what its own environment shows."""
    command = ["env", "PYTHONPATH=/site", "A=", "python3", "-m", "vllm"]

    assert without_env(command, {"B": "1"}) == (
        ["python3", "-m", "vllm"],
        {"B": "1", "PYTHONPATH": "/site", "A": ""},
    )


async def test_packages_are_found_where_the_command_would_find_them(tmp_path: Path) -> None:
    """By their metadata; one that is missing is unknown, and so is all of a missing program."""
    info = tmp_path / "vllm-0.26.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.26.0\n")

    found = await installed_versions(
        ["env", f"PYTHONPATH={tmp_path}", sys.executable, "-m", "x"], {}
    )
    nothing = await installed_versions(["no-such-program"], {"PATH": ""})

    assert (found.vllm, found.kvcached) == ("0.26.0", None)
    assert (nothing.vllm, nothing.kvcached) == (None, None)
