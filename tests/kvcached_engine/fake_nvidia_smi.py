"""Prints what `nvidia-smi --query-gpu=index,uuid,memory.used` would: the MiB in FAKE_GPU."""

import os
from pathlib import Path

if __name__ == "__main__":
    used = Path(os.environ["FAKE_GPU"]).read_text()
    print(f"0, GPU-0a, {used}")  # noqa: T201
