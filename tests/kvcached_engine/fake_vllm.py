"""What `vllm serve` shows of itself to whoever starts it, with KVCached or without.

    fake_vllm.py FAULT serve MODEL --port N

FAULT is none, unpatched (serves without a segment, as a vLLM that KVCached does not know), dies,
static (has a segment, and all of its memory from the start, as KVCached 0.1.5 had in vLLM 0.26),
hoards (gives nothing back) or pooling (has no completions).  FAKE_GPU is a file with the used MiB
of the only GPU, which fake_nvidia_smi.py prints.
"""

import json
import os
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

GIB = 1024**3
MIB = 1024**2

# A KV cache of 40 GiB with 128 KiB per token, as an 8B model has.
CAPACITY = 40 * GIB
PER_TOKEN = 128 * 1024
WEIGHTS = 16 * GIB
HELD_S = 0.3

CONFIG = f'block_size="16",num_gpu_blocks="{CAPACITY // PER_TOKEN // 16}"'
LOCK = threading.Lock()


def use(count: int) -> None:
    """Add *count* bytes to what the GPU has in use."""
    file = os.environ.get("FAKE_GPU")
    if file is None:
        return
    with LOCK:
        used = int(Path(file).read_text() or 0)
        Path(f"{file}.new").write_text(str(used + count // MIB))
        Path(f"{file}.new").rename(file)


class FakeEngine(BaseHTTPRequestHandler):
    fault = "none"

    def do_GET(self) -> None:
        pages = {
            "/v1/models": '{"data": [{"id": "a/model", "max_model_len": 8192}]}',
            "/metrics": f"vllm:cache_config_info{{{CONFIG}}} 1.0\n",
        }
        self._answer(200, pages.get(self.path, ""))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.fault == "pooling":
            self._answer(404, '{"error": "no completions"}')
            return
        size = len(body["prompt"]) * PER_TOKEN
        if self.fault not in ("static", "unpatched"):
            use(size)
        time.sleep(HELD_S)
        if self.fault not in ("static", "unpatched", "hoards"):
            use(-size)
        self._answer(200, "{}")

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_request(self, *_: object) -> None:
        return


class FakeServer(ThreadingHTTPServer):
    request_queue_size = 128


def main() -> None:
    fault, _, model, _, port = sys.argv[1:]
    if fault == "dies":
        sys.exit(f"ValueError: {model} is no model")
    runner = os.environ.get("VLLM_USE_V2_MODEL_RUNNER", "as vLLM likes")
    print(f"model runner V2: {runner}", flush=True)  # noqa: T201
    if fault == "unpatched":
        print("[kvcached][WARNING] Failed to patch vllm: ElasticBlockPoolPatch", flush=True)  # noqa: T201
    elif os.environ["ENABLE_KVCACHED"] == "true":
        segment = SharedMemory(os.environ["KVCACHED_IPC_NAME"], create=True, size=24)
        assert segment.buf is not None
        segment.buf[:24] = struct.pack("=3q", CAPACITY, 2 * GIB, GIB)
    use(WEIGHTS + (CAPACITY if fault in ("static", "unpatched") else GIB))
    FakeEngine.fault = fault
    server = FakeServer(("127.0.0.1", int(port)), FakeEngine)
    threading.Thread(target=server.serve_forever).start()


if __name__ == "__main__":
    main()
