"""Prints what nvidia-smi would of GPUs whose engines are stand_in_vllm.py.

    fake_gpus.py log|memory

An engine with KVCached holds what its requests hold, any other all of its KV cache.
"""

import contextlib
import os
import re
import sys
import urllib.request
from pathlib import Path

MIB = 1024**2
CAPACITY = 20 * 1024**3
WEIGHTS = 16 * 1024**3
GPUS = 2


def held(port: str, kind: str) -> int:
    """Return the bytes that an engine holds; none before it serves."""
    with contextlib.suppress(OSError):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        usage = re.search(r"^vllm:kv_cache_usage_perc\S* (\S+)", text, re.MULTILINE)
        share = 1.0 if kind == "static" or usage is None else float(usage[1])
        return WEIGHTS + int(share * CAPACITY)
    return 0


def main() -> None:
    used = dict.fromkeys(range(GPUS), 0)
    for file in Path(os.environ["FAKE_GPUS"]).iterdir():
        port, gpu, kind = file.name.split("-")
        used[int(gpu)] += held(port, kind)
    for number, count in used.items():
        if sys.argv[1] == "log":
            print(f"{number}, {count // MIB}, 143771, 50, 300.0, 1980")  # noqa: T201
        else:
            print(f"{number}, GPU-{number}, {count // MIB}")  # noqa: T201


if __name__ == "__main__":
    main()
