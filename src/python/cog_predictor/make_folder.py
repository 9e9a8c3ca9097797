#!/usr/bin/env python3
"""Make the folder that `cog build` takes, from a clone: `make_folder.py FOLDER`.

Needs Python 3.9 and nothing else: no Pants, no package.  The folder holds what lies in `flat`, and
beside it the modules of this repository that those files import, and their tests.
"""

import argparse
import ast
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLAT = ROOT / "cog_predictor/flat"
TESTS = ROOT.parents[1] / "tests/cog_predictor/folder"

# Ours alone: Pants' own files, and what running the tests leaves behind.
_LEFT_OUT = shutil.ignore_patterns("BUILD", "__init__.py", "__pycache__", ".pytest_cache", "*.pyc")


def modules_of(source: Path) -> Iterator[Path]:
    """Yield the files of this repository that *source* imports."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            path = ROOT / (name.replace(".", "/") + ".py")
            if path.is_file():
                yield path


def needed_modules(entries: list[Path]) -> list[Path]:
    """Return every module that *entries* need, their packages' `__init__.py` included."""
    found: set[Path] = set()
    waiting = list(entries)
    while waiting:
        for path in modules_of(waiting.pop()):
            if path not in found:
                found.add(path)
                waiting.append(path)
    folders = {folder for path in found for folder in path.parents if ROOT in folder.parents}
    packages = {folder / "__init__.py" for folder in folders}
    return sorted(found | {path for path in packages if path.is_file()})


def make_folder(target: Path) -> None:
    """Write the folder.  What is there already and is not ours is left alone."""
    shutil.copytree(FLAT, target, ignore=_LEFT_OUT, dirs_exist_ok=True)
    shutil.copytree(TESTS, target / "tests", ignore=_LEFT_OUT, dirs_exist_ok=True)
    # Run by name in the container: the schema for images that are built without Cog.
    programs = [ROOT / "cog_predictor/serve.py", ROOT / "cog_predictor/schema.py"]
    for path in {*programs, *needed_modules([*FLAT.glob("*.py"), *programs])}:
        copy = target / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def main() -> None:
    """Make the folder that the first argument names."""
    parser = argparse.ArgumentParser(description="Make the folder that `cog build` takes.")
    parser.add_argument("folder", type=Path, help="Folder to write, such as ./llama")
    try:
        make_folder(folder := parser.parse_args().folder)
    except OSError as error:
        sys.exit(f"make_folder: {error}; choose another folder")
    print(f"{folder}: next, `cd {folder} && cog build`")  # noqa: T201


if __name__ == "__main__":
    main()
