"""The search path for NVIDIA's libraries."""

import os
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cog_predictor.engine.library_path import (
    library_folders,
    preload_libraries,
    with_library_folders,
)


def _site(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / "nvidia" / name).mkdir(parents=True)
    return folder


def test_folders_of_both_generations_of_wheels_are_found(tmp_path: Path) -> None:
    """One folder for each library, or one for all."""
    old = _site(tmp_path / "old", "cudnn/lib", "cublas/lib")
    new = _site(tmp_path / "new", "cu13/lib")

    assert library_folders([str(old)]) == (
        old / "nvidia/cublas/lib",
        old / "nvidia/cudnn/lib",
    )
    assert library_folders([str(new)]) == (new / "nvidia/cu13/lib",)
    assert library_folders([str(tmp_path)]) == ()


def test_ours_are_searched_first_and_others_stay() -> None:
    """The base image's own path is kept, behind."""
    environ = with_library_folders({"LD_LIBRARY_PATH": "/usr/x:/a", "HOME": "/"}, [Path("/a")])

    assert environ == {"LD_LIBRARY_PATH": "/a:/usr/x", "HOME": "/"}


def test_nothing_found_changes_nothing() -> None:
    """An empty entry would mean the current directory."""
    assert with_library_folders({"HOME": "/"}, []) == {"HOME": "/"}
    assert with_library_folders({"LD_LIBRARY_PATH": ""}, []) == {"LD_LIBRARY_PATH": ""}


@given(st.lists(st.sampled_from(["/a", "/b", "/c"])), st.lists(st.sampled_from(["/a", "/d"])))
def test_twice_is_as_good_as_once(already: list[str], ours: list[str]) -> None:
    """A restart does not lengthen the path."""
    folders = [Path(entry) for entry in dict.fromkeys(ours)]
    once = with_library_folders({"LD_LIBRARY_PATH": ":".join(already)}, folders)

    assert with_library_folders(once, folders) == once


def test_a_file_that_is_no_library_is_left_to_the_loader(tmp_path: Path) -> None:
    """Preloading helps where it can, and stops nothing."""
    site = _site(tmp_path, "cudnn/lib")
    (site / "nvidia/cudnn/lib/libcudnn.so.9").write_bytes(b"not a library")
    environ = {"LD_LIBRARY_PATH": "/usr/x"}

    assert preload_libraries(environ, [str(site)]) == []
    assert environ["LD_LIBRARY_PATH"] == f"{site}/nvidia/cudnn/lib:/usr/x"


def test_serve_becomes_the_server_with_the_path_set(tmp_path: Path) -> None:
    """The server that follows has the path from its first instruction on, and its arguments."""
    site = _site(tmp_path / "site", "cudnn/lib")
    fake = tmp_path / "fake/cog/server"
    fake.mkdir(parents=True)
    for package in (fake.parent, fake):
        (package / "__init__.py").touch()
    (fake / "http.py").write_text(
        "import os, shutil, sys\n"
        "print(os.environ['LD_LIBRARY_PATH'], shutil.which('python'), *sys.argv[1:])"
    )
    paths = [str(tmp_path / "fake"), str(site), *sys.path]

    done = subprocess.run(
        [sys.executable, "-m", "cog_predictor.serve", "--host", "127.0.0.1"],
        env={"PATH": "/usr/bin", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=True,
    )

    path, python, *arguments = done.stdout.split()
    assert path == f"{site}/nvidia/cudnn/lib"
    assert Path(python).parent == Path(sys.executable).parent
    assert arguments == ["--host", "127.0.0.1"]
