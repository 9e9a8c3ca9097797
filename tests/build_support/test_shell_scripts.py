"""The scripts of the build, as shellcheck sees them."""

from pathlib import Path

from tests.support.shell_scripts import lint, needs_shellcheck

ROOT = Path(__file__).parents[2]
FOLDERS = (".ci", "build-support/ci", "build-support/images")


def is_script(path: Path) -> bool:
    """A file for bash or sh, by its first line or by its name."""
    first = path.read_bytes().partition(b"\n")[0]
    return path.suffix == ".sh" or (first.startswith(b"#!") and first.endswith((b"sh", b"bash")))


@needs_shellcheck
def test_shellcheck_finds_nothing() -> None:
    """In the launcher, the locks' writer, and all that CI runs."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).iterdir() if path.is_file()]
    scripts = [path for path in files if is_script(path)]

    assert len(scripts) >= 6
    lint([*scripts, ROOT / "pants", ROOT / "build-support/lock"])
