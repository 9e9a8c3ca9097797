"""Become Cog's server, with the library path that vLLM needs: `python -m cog_predictor.serve`."""

import os
import sys

from cog_predictor.engine.library_path import library_folders, with_library_folders


def main() -> None:
    """Replace this process by `python -m cog.server.http`; arguments are passed on."""
    # coglet starts its worker as the first `python` on the PATH, which must be this one.
    here = os.path.dirname(sys.executable)  # noqa: PTH120  # the link, not what it leads to
    environ = with_library_folders(os.environ, library_folders())
    environ["PATH"] = os.pathsep.join([here, environ.get("PATH", "")])
    command = [sys.executable, "-m", "cog.server.http", *sys.argv[1:]]
    os.execve(sys.executable, command, environ)  # noqa: S606  # no shell is the point


if __name__ == "__main__":
    main()
