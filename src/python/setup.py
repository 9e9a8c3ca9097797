"""What pyproject.toml cannot say: the programs' packages are installed below servekit/_programs."""

import gzip
import os
import tarfile
from pathlib import Path

from setuptools import setup  # type: ignore[import-untyped]
from setuptools.command.build_py import build_py  # type: ignore[import-untyped]
from setuptools.command.sdist import sdist  # type: ignore[import-untyped]

HERE = Path(__file__).parent
LEFT_OUT = ("BUILD", "*.pyc", "setup.py")


def has_code(folder: Path) -> bool:
    return any(folder.glob("*.py"))


def folders_below(root: Path) -> list[Path]:
    """*root* and every folder in it with a file that ships."""
    found = [root, *(path for path in sorted(root.rglob("*")) if path.is_dir())]
    return [
        path
        for path in found
        if "__pycache__" not in path.parts
        and any(file.is_file() and file.name != "BUILD" for file in path.iterdir())
    ]


def packages() -> dict[str, str]:
    """Package -> folder, relative to here."""
    tops = [path for path in sorted(HERE.iterdir()) if path.is_dir() and has_code(path)]
    programs = {
        ".".join(("servekit", "_programs", *path.relative_to(HERE).parts)): path
        for top in tops
        for path in folders_below(top)
    }
    libraries = {
        ".".join(path.relative_to(HERE).parts): path
        for top in sorted((HERE / "servekit").iterdir())
        if top.is_dir() and has_code(top)
        for path in folders_below(top)
    }
    return {name: str(path.relative_to(HERE)) for name, path in {**libraries, **programs}.items()}


class BuildTyped(build_py):  # type: ignore[misc]
    """Marks every library as typed (PEP 561: a namespace package has a marker in each part)."""

    def run(self) -> None:
        super().run()
        for folder in (Path(self.build_lib) / "servekit").iterdir():
            if folder.is_dir() and folder.name != "_programs":
                (folder / "py.typed").touch()


class SameBytes(sdist):  # type: ignore[misc]
    """The same sources are the same bytes: no times, owners or rights of this machine."""

    def make_archive(
        self,
        base_name: str,
        _format: str,
        _root: object = None,
        base_dir: str = "",
        **_owner: object,
    ) -> str:
        name = f"{base_name}.tar.gz"
        epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "315532800"))

        def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() else 0o644
            return member

        files = [Path(base_dir), *sorted(Path(base_dir).rglob("*"))]
        with (
            Path(name).open("wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=epoch) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for path in files:
                archive.add(path, recursive=False, filter=plain)
        return name


found = packages()
setup(
    packages=sorted(found),
    package_dir=found,
    package_data={name: ["*"] for name in found},
    exclude_package_data={"": list(LEFT_OUT)},
    cmdclass={"build_py": BuildTyped, "sdist": SameBytes},
)
