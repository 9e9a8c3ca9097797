"""Programs of this repository as modules that another one starts by name.

The first looks at what is installed; the second is pure but for `sys.path`.
"""

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from servekit.errors.tree import SettingInvalid


def require_module(module: str, remedy: str) -> None:
    """Raise unless `python -m module` could be started.  Nothing is imported but its package.

    Raises:
        SettingInvalid: it is not there.
    """
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise SettingInvalid(f"{module.split('.')[0]} is not part of this installation; {remedy}")


def environ_of_modules(environ: Mapping[str, str]) -> dict[str, str]:
    """Return *environ*, in which a child finds what we find: checkout, pex or installed wheel."""
    path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path if entry)
    return {**environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
