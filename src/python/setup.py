"""What pyproject.toml cannot say: the programs' packages are installed below servekit/_programs."""

from pathlib import Path

from setuptools import setup  # type: ignore[import-untyped]
from setuptools.command.build_py import build_py  # type: ignore[import-untyped]

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


found = packages()
setup(
    packages=sorted(found),
    package_dir=found,
    package_data={name: ["*"] for name in found},
    exclude_package_data={"": list(LEFT_OUT)},
    cmdclass={"build_py": BuildTyped},
)
