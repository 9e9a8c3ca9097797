"""Tests for ./pants where it cannot install: no network is touched."""

from pathlib import Path

import pytest

from tests.build_support.launcher import Launcher


@pytest.fixture
def launcher(tmp_path: Path) -> Launcher:
    return Launcher.make(tmp_path)


def test_without_python39_one_message_names_three_ways(launcher: Launcher) -> None:
    """Whoever has no Python 3.9 learns how to get one, and nothing is left behind."""
    result = launcher.run("--version")

    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    for way in ("your system's packages", "pyenv install 3.9", "pip install uv"):
        assert way in result.stderr
    assert launcher.installed == []


def test_a_python39_that_does_not_run_is_none(launcher: Launcher) -> None:
    """pyenv puts a python3.9 on the PATH that fails while another version is selected."""
    launcher.add_program("python3.9", "echo 'pyenv: python3.9: command not found' >&2; exit 127")

    result = launcher.run("--version")

    assert result.returncode == 1
    assert "no working Python 3.9" in result.stderr


def test_uv_is_asked_to_find_and_then_to_install(launcher: Launcher) -> None:
    """Where uv is at hand it brings the Python; where it cannot, the message still comes."""
    launcher.add_program("uv", f'echo "$*" >> {launcher.home}/asked; exit 1')

    result = launcher.run("--version")

    asked = (launcher.home / "asked").read_text().splitlines()
    assert asked == ["python find 3.9", "python install 3.9"]
    assert "no working Python 3.9" in result.stderr


def test_pants_toml_and_lock_must_agree(launcher: Launcher) -> None:
    """Raising pants_version alone is caught before anything is installed."""
    toml = launcher.root / "pants.toml"
    toml.write_text(toml.read_text().replace('"2.17.1"', '"2.99.0"'))

    result = launcher.run("--version")

    assert result.returncode == 1
    assert "pants.toml asks for Pants 2.99.0" in result.stderr
    assert "build-support/lock pants" in result.stderr
