"""Certificates for a test, made by the `openssl` command.  Runs processes."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, in PEM."""

    pem: Path
    key: Path


def authority(folder: Path, name: str) -> Certificate:
    """Return a CA called *name*."""
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    _openssl("req", "-x509", *_CURVE, *_output(made), "-days", "2", "-subj", f"/CN={name}")
    return made


def signed(folder: Path, name: str, by: Certificate) -> Certificate:
    """Return a certificate for `localhost` and 127.0.0.1 that is signed *by* a CA."""
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
    extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    _openssl("req", *_CURVE, "-keyout", str(made.key), "-out", str(request), "-subj", f"/CN={name}")
    _openssl(
        *("x509", "-req", "-in", str(request), "-CA", str(by.pem), "-CAkey", str(by.key)),
        *("-CAcreateserial", "-days", "2", "-extfile", str(extensions), "-out", str(made.pem)),
    )
    return made


def _output(made: Certificate) -> tuple[str, ...]:
    return ("-keyout", str(made.key), "-out", str(made.pem))


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)  # noqa: S603, S607
