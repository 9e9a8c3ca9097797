"""What NVIDIA's DCGM exporter answers, for a GPU that is hot and has reported an Xid.

It stands for dcgm-exporter 4.x on a node with one T4: same path, same names, same labels.  What it
says of each field is made up; which fields there are is the exporter's configuration (fields.csv).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from tests.support.loopback import Quiet, http_server

# In the fields' own units: percent, MiB, degrees Celsius, watts, MHz.
HOT = {
    "DCGM_FI_DEV_GPU_UTIL": 97,
    "DCGM_FI_DEV_FB_USED": 12_300,
    "DCGM_FI_DEV_FB_FREE": 2_780,
    "DCGM_FI_DEV_GPU_TEMP": 88,
    "DCGM_FI_DEV_POWER_USAGE": 68.5,
    "DCGM_FI_DEV_SM_CLOCK": 585,
    "DCGM_FI_DEV_XID_ERRORS": 79,
}

_LABELS = (
    'gpu="0",UUID="GPU-7f3c1c4e-0d0a-4a52-9d39-3c8f1e5a1b11",pci_bus_id="00000000:00:1E.0",'
    'device="nvidia0",modelName="Tesla T4",Hostname="llama-gpu-worker"'
)


def exposition(fields: str) -> str:
    """Return the body of /metrics for the lines of a fields.csv: `name, kind, description`."""
    lines = []
    for line in fields.strip().splitlines():
        name, kind, about = (part.strip() for part in line.split(",", 2))
        lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
        lines.append(f"{name}{{{_LABELS}}} {HOT[name]}")
    return "\n".join(lines) + "\n"


@contextmanager
def dcgm_exporter(fields: str) -> Iterator[str]:
    """Serve /metrics on a free port; give host:port."""
    body = exposition(fields).encode()

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.end_headers()
            self.wfile.write(body)

    with http_server(Handler) as url:
        yield url.removeprefix("http://")
