"""Like `fake_vllm`, with a core in a process of its own, as vLLM has it, that can die in five ways.

The API server answers /health and /metrics whatever becomes of its core, passes completions on to
it by a pipe, and ends, without saying why, some time after its core has.  A prompt says what
becomes of the core: `input` loses the thread that takes requests in, `assert` is a CUDA assert,
`hog` takes all memory, and `slow` computes for 45 s.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CORE = r"""
import json, os, sys, threading, queue, time
inbox = queue.Queue()
def take_in():
    for line in sys.stdin:
        if json.loads(line) == "input":
            raise SystemExit  # ends this thread alone
        inbox.put(json.loads(line))
threading.Thread(target=take_in, daemon=True).start()
while True:
    prompt = inbox.get()
    if prompt == "assert":
        error = "RuntimeError: CUDA error: device-side assert triggered"
        print("(EngineCore pid=7)", error, file=sys.stderr, flush=True)
        os._exit(1)
    if prompt == "hog":
        held = [bytearray(10_000_000) for _ in range(1000)]
    if prompt == "slow":
        end = time.monotonic() + 45
        while time.monotonic() < end:
            pass
    print("token", flush=True)
"""

core: "subprocess.Popen[str]"
steps = 0
answers: "queue.Queue[str]" = queue.Queue()


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        text = f"vllm:iteration_tokens_total {steps}\n" if self.path == "/metrics" else ""
        self.answer(text.encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert core.stdin is not None
        core.stdin.write(json.dumps(body["prompt"]) + "\n")
        core.stdin.flush()
        answers.get()
        self.answer(b'{"choices": [{"text": "x"}]}')

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def start_core() -> "subprocess.Popen[str]":
    return subprocess.Popen(  # noqa: S603
        ("VLLM::EngineCore", "-c", CORE),  # noqa: S607
        executable=sys.executable,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def read_tokens() -> None:
    global steps
    assert core.stdout is not None
    for line in core.stdout:
        steps += 1
        answers.put(line)


def end_after_core() -> None:
    while core.poll() is None:
        time.sleep(0.1)
    sys.stderr.write("EngineDeadError: EngineCore encountered an issue. See stack trace above.\n")
    sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    core = start_core()
    threading.Thread(target=read_tokens, daemon=True).start()
    threading.Thread(target=end_after_core, daemon=True).start()
    ThreadingHTTPServer(("127.0.0.1", int(option("--port"))), Handler).serve_forever()
