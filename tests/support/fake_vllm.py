"""A program that behaves like `vllm serve` as far as its starter can tell.

It takes vLLM's arguments, logs what vLLM logs, listens when it is "loaded", and streams tokens.
What goes wrong, and when, is said by variables FAKE_*.
"""

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import takewhile
from pathlib import Path

LINES = (
    "(APIServer pid=1) INFO 11-21 10:00:00 [api_utils.py:345] vLLM server version 0.32.0",
    "(APIServer pid=1) INFO 11-21 10:00:00 [model.py:623] Resolved architecture: LlamaForCausalLM",
    "(EngineCore pid=2) INFO 11-21 10:00:00 [core.py:116] Initializing a V1 LLM engine (v0.32.0)",
    "(EngineCore pid=2) INFO 11-21 10:00:00 [model_runner.py:284] Loading model from scratch...",
    "(EngineCore pid=2) INFO 11-21 10:00:00 [model_runner.py:305] Model loading took 1.0 GiB",
    "(EngineCore pid=2) INFO 11-21 10:00:00 [kv_cache_utils.py:2177] GPU KV cache size: 9 tokens",
    "(APIServer pid=1) INFO 11-21 10:00:00 [api_server.py:677] Starting vLLM server on http://x",
)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def _names() -> list[str]:
    start = sys.argv.index("--served-model-name") + 1
    return list(takewhile(lambda word: not word.startswith("--"), sys.argv[start:]))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # A head and a body are two writes; the second must not wait for the first's acknowledgement.
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""

    def do_GET(self) -> None:
        pages = {
            "/health": b"",
            "/v1/models": json.dumps({"data": [{"id": name} for name in _names()]}).encode(),
            "/environment": json.dumps(dict(os.environ)).encode(),
            "/arguments": json.dumps(sys.argv[1:]).encode(),
            "/prompts": json.dumps(PROMPTS).encode(),
        }
        page = pages.get(self.path)
        self._answer(200 if page is not None else 404, page or b"")

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "10")
        self.end_headers()

    def do_POST(self) -> None:
        body = json.loads(self._body())
        if self.path == "/die":
            os._exit(3)
        prompt = body.get("prompt", "")
        tokens = len(prompt)
        if os.environ.get("FAKE_REFUSES"):
            self._answer(400, b'{"error": {"message": "no", "type": "BadRequestError"}}')
            return
        if os.environ.get("FAKE_ASKS_FOR_A_KEY"):
            self._answer(401, b'{"error": "Unauthorized"}')
            return
        PROMPTS.append(prompt)
        if body.get("stream"):
            self._stream(body)
            return
        usage = {"prompt_tokens": tokens, "completion_tokens": 1}
        text = "" if os.environ.get("FAKE_SAYS_NOTHING") else "x" * body.get("max_tokens", 1)
        answer = {"choices": [{"text": text}], "usage": usage}
        self._answer(200, json.dumps(answer).encode())

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _stream(self, body: dict[str, object]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        tokens = int(str(body.get("max_tokens", 1)))
        for number in range(tokens):
            self._chunk(b'data: {"choices": [{"text": "%d "}]}\n\n' % number)
            time.sleep(float(os.environ.get("FAKE_STEP_OF_STREAM_S", "0.01")))
            if os.environ.get("FAKE_DIES_AT") == str(number):
                _say("RuntimeError: CUDA error: an illegal memory access was encountered")
                os._exit(134)
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


PROMPTS: list[object] = []


def main() -> None:
    if os.environ.get("FAKE_FAILS"):
        sys.exit("ValueError: the checkpoint cannot be read")
    step_s = float(os.environ.get("FAKE_STEP_S", "0"))
    cache = Path(os.environ["VLLM_CACHE_ROOT"])
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "graph.bin").write_bytes(b"compiled")
    for line in LINES:
        _say(line)
        time.sleep(step_s)
    if os.environ.get("FAKE_NEVER_READY"):
        signal.pause()
    server = ThreadingHTTPServer(("127.0.0.1", int(_option("--port"))), Handler)
    signal.signal(
        signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown, daemon=True).start()
    )
    server.serve_forever(poll_interval=0.02)


if __name__ == "__main__":
    main()
