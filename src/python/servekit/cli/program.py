"""How every program of ours ends: one line on stderr and an exit code that means something.

0 done, 1 failed, 2 used wrongly, 130 stopped by Ctrl-C.
"""

import sys

import typer

from servekit.cli.app import command_line
from servekit.cli.output import let_stdout_go
from servekit.errors.tree import ConfigError, ServeError


def run_program(app: typer.Typer) -> None:
    """Run *app* with the arguments of the process, and exit.  Never shows a traceback of ours."""
    try:
        code = command_line(app)(standalone_mode=False)
    except ServeError as error:
        _fail(str(error), 2 if isinstance(error, ConfigError) else 1)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _fail("stopped", 130)
    except BrokenPipeError:
        let_stdout_go()
        sys.exit(0)
    except Exception as error:
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        sys.exit(getattr(error, "exit_code", 2))
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)  # noqa: T201
    sys.exit(code)
