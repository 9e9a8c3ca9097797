"""The seed's name for `model_server download`."""

import os

PROGRAM = "/opt/model_server/pex"

if __name__ == "__main__":
    os.execv(PROGRAM, (PROGRAM, "download"))  # noqa: S606  (no shell is wanted)
