"""What `vllm serve` shows of itself to whoever starts it, with KVCached's segment or without.

    fake_vllm.py FAULT serve MODEL --port N

FAULT is none, unpatched (serves without a segment, as a vLLM that KVCached does not know) or dies.
"""

import os
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from multiprocessing.shared_memory import SharedMemory

GIB = 1024**3


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_request(self, *_: object) -> None:
        return


def main() -> None:
    fault, _, model, _, port = sys.argv[1:]
    if fault == "dies":
        sys.exit(f"ValueError: {model} is no model")
    if fault == "unpatched":
        print("[kvcached][WARNING] Failed to patch vllm: ElasticBlockPoolPatch", flush=True)  # noqa: T201
    elif os.environ["ENABLE_KVCACHED"] == "true":
        segment = SharedMemory(os.environ["KVCACHED_IPC_NAME"], create=True, size=24)
        assert segment.buf is not None
        segment.buf[:24] = struct.pack("=3q", 40 * GIB, 2 * GIB, GIB)
    server = HTTPServer(("127.0.0.1", int(port)), Healthy)
    threading.Thread(target=server.serve_forever).start()


if __name__ == "__main__":
    main()
