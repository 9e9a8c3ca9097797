"""A stand-in for the Hugging Face hub that checks the token: `python hub.py PORT`.

Serves one gated repository, `acme/tiny-1b`; any other is unknown.
"""

import hashlib
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.support.loopback import Quiet, http_server
from tests.support.model_archive import model_files

MODEL = "acme/tiny-1b"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {"model_type": "gemma3_text", "max_position_embeddings": 2048, "vocab_size": 1024}


def hub_files() -> dict[str, bytes]:
    return {**model_files(), "config.json": json.dumps(CONFIG).encode()}


@dataclass
class Hub:
    """A running hub.

    Attributes:
        token: the one that opens the repository.
        asked: method and path of every request.
    """

    url: str
    token: str
    files: Mapping[str, bytes]
    asked: list[str] = field(default_factory=list)


@contextmanager
def hub(token: str, files: Mapping[str, bytes] | None = None, port: int = 0) -> Iterator[Hub]:
    """Serve on loopback."""
    running = Hub("", token, files or hub_files())
    with http_server(_handler(running), port) as running.url:
        yield running


def _handler(running: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(Quiet, BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            running.asked.append(f"{self.command} {self.path}")
            path = self.path.partition("?")[0]
            given = self.headers.get("Authorization")
            if MODEL not in path:
                self._refuse(401 if given is None else 404, "RepoNotFound", "Repository not found")
            elif given is None:
                self._refuse(401, "GatedRepo", "Access to this model is restricted")
            elif given != f"Bearer {running.token}":
                self._refuse(401, "", "Invalid credentials in Authorization header")
            else:
                self._give(path)

        def do_HEAD(self) -> None:
            self.do_GET()

        def _give(self, path: str) -> None:
            if path.startswith(f"/api/models/{MODEL}/revision/"):
                siblings = [
                    {"rfilename": name, "size": len(body)} for name, body in running.files.items()
                ]
                self._json({"id": MODEL, "sha": COMMIT, "siblings": siblings})
            elif path == f"/api/models/{MODEL}/auth-check":
                self._send(200, b"", {})
            elif path.startswith(f"/api/models/{MODEL}/tree/"):
                self._json([_entry(name, body) for name, body in running.files.items()])
            elif (name := path.rpartition("/")[2]) in running.files:
                body = running.files[name]
                self._send(200, body, {"ETag": f'"{_sha1(body)}"', "X-Repo-Commit": COMMIT})
            else:
                self._refuse(404, "EntryNotFound", "Entry not found")

        def _refuse(self, status: int, code: str, message: str) -> None:
            headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
            self._send(status, json.dumps({"error": message}).encode(), headers)

        def _json(self, document: object) -> None:
            self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler


def _entry(name: str, body: bytes) -> dict[str, object]:
    return {"type": "file", "path": name, "size": len(body), "oid": _sha1(body)}


def _sha1(body: bytes) -> str:
    return hashlib.sha1(body, usedforsecurity=False).hexdigest()


if __name__ == "__main__":
    with hub(sys.argv[2], port=int(sys.argv[1])):
        threading.Event().wait()
