"""Our programs' command lines, without starting them."""

import importlib
from typing import Any

from servekit.cli.app import command_line


def app_of(module: str) -> Any:
    """Return the app of *module* with all its commands; None where it has none."""
    loaded = importlib.import_module(module)
    # The bench adds its commands when it is run.
    getattr(loaded, "add_commands", lambda: None)()
    return getattr(loaded, "app", None)


def command_line_of(module: str) -> Any:
    """Return the click command of *module*; None where it reads its words itself."""
    app = app_of(module)
    return None if app is None else command_line(app)
