"""Stands for `vllm serve` where there is no GPU: the simulator, called as vLLM is.

    stand_in_vllm.py serve MODEL --port N --served-model-name NAME ...

With ENABLE_KVCACHED=true it has KVCached's segment.  FAKE_GPUS is a folder in which each engine
says where it is, so that `fake_gpus.py` can print what nvidia-smi would.
"""

import os
import struct
import sys
import tempfile
from pathlib import Path

GIB = 1024**3
CAPACITY = 20 * GIB
# Real time: the memory of a load is looked at every few tenths of a second.
SPEED = "1"

FLEET = """
models: [{{name: {name}, short_name: it, gpu_memory_utilization: 0.5, engine_args: {arguments}}}]
replicas: [{{name: it, model: {name}, gpus: [0], gpu: h200, port: {port}}}]
"""


def option(name: str, otherwise: str = "") -> str:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else otherwise


def main() -> None:
    port = option("--port")
    arguments = ["--kv-cache-memory-bytes", str(CAPACITY)]
    if "--no-enable-prefix-caching" in sys.argv:
        arguments.append("--no-enable-prefix-caching")
    fleet = Path(tempfile.mkdtemp(prefix="stand-in-")) / "fleet.yaml"
    name = option("--served-model-name", sys.argv[2])
    fleet.write_text(FLEET.format(name=name, port=port, arguments=arguments))
    kvcached = os.environ.get("ENABLE_KVCACHED") == "true"
    if kvcached:
        segment = Path("/dev/shm") / os.environ["KVCACHED_IPC_NAME"]  # noqa: S108
        segment.write_bytes(struct.pack("=3q", CAPACITY, 0, 0))
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    said = Path(os.environ["FAKE_GPUS"]) / f"{port}-{gpu}-{'elastic' if kvcached else 'static'}"
    said.touch()
    os.execv(  # noqa: S606
        sys.executable,
        [
            *(sys.executable, "-m", "simulator.main", "--fleet", str(fleet)),
            *("--ports", "fleet", "--speed", SPEED),
        ],
    )


if __name__ == "__main__":
    main()
