"""Console scripts of the installed wheel: `servekit-simulator`.  Starts a program in this process.

The programs' packages lie in a folder of their own, `servekit/_programs`, so that installing
servekit adds one name to an environment and not one for each program.  That folder comes first on
the path of the program that is started, and of the processes that it starts in turn.
"""

import os
import runpy
import sys
from functools import partial
from pathlib import Path

from servekit.cli.version import VERSION

FOLDER = Path(__file__).parents[1] / "_programs"

# Console script without `servekit-`, with _ for - -> package and module of the program.  The extra
# of the wheel that has what it imports is named as its package.
PROGRAMS = {
    "baseline_lb": ("loadbalancer", "baseline"),
    "bench": ("bench", "runner"),
    "bench_environments": ("bench_environments", "main"),
    "chat_backend": ("chat_backend", "main"),
    "cloudrun": ("cloudrun", "entrypoint"),
    "cluster_check": ("cluster_check", "main"),
    "cog_predictor": ("cog_predictor", "serve"),
    "dashboards": ("dashboards", "main"),
    "embeddings": ("modal_embedding", "main"),
    "embeddings_local": ("modal_embedding", "local"),
    "kvcached_engine": ("kvcached_engine", "main"),
    "managed_lb": ("loadbalancer", "managed"),
    "model_server": ("model_server", "entrypoint"),
    "simulator": ("simulator", "main"),
}


def start(name: str) -> None:
    """Run the program as `python -m` would; `--version` alone is answered here."""
    package, module = PROGRAMS[name]
    script = f"servekit-{name.replace('_', '-')}"
    if sys.argv[1:] == ["--version"]:
        print(f"{script} {VERSION}")  # noqa: T201  # what was asked for
        return
    sys.path.insert(0, str(FOLDER))
    paths = [str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    try:
        # Not as sys.modules["__main__"]: usage lines name the script.
        runpy.run_module(f"{package}.{module}", run_name="__main__")
    except ModuleNotFoundError as missing:
        extra = package.replace("_", "-")
        sys.exit(f"{script}: no module {missing.name!r}; pip install 'servekit[{extra}]'")


def __getattr__(name: str) -> "partial[None]":
    """The entry point of a program: `servekit.cli.installed:simulator`."""
    if name not in PROGRAMS:
        raise AttributeError(name)
    return partial(start, name)
