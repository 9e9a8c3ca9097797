"""TLS for a front's clients and for its engines: files -> contexts.  Reads files.

Whoever listens or connects asks for the context each time, so that files which have changed count
for the next connection; those that stand are left alone.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from servekit.errors.tree import SettingInvalid

# Forward secrecy and authenticated encryption only, as Mozilla's "intermediate" has it; the ciphers
# of TLS 1.3 are like that anyway.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
HTTP2, HTTP1 = "h2", "http/1.1"


@dataclass(frozen=True, slots=True)
class ServerTlsFiles:
    """What a front proves itself with, in PEM.

    Attributes:
        certificate: its certificate, and those that lead to the CA's.
        key: its private key, not encrypted; often in the same file.
        client_ca: who signs clients' certificates; None: clients need none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def paths(self) -> list[Path]:
        """Return each file once."""
        given = (self.certificate, self.key, self.client_ca)
        return sorted({path for path in given if path is not None})


class ServerTls:
    """A front's context, made anew when its files change."""

    def __init__(self, files: ServerTlsFiles, *, http2: bool) -> None:
        """*http2*: whether it is offered.

        Raises:
            SettingInvalid: a file cannot be used.
        """
        self._files = files
        self._http2 = http2
        self.reload()

    def paths(self) -> list[Path]:
        """Return the files that may change."""
        return self._files.paths()

    def reload(self) -> None:
        """Read the files again; those that cannot be used change nothing.

        Raises:
            SettingInvalid: one cannot be used.
        """
        self.context = server_context(self._files, http2=self._http2)


def server_context(files: ServerTlsFiles, *, http2: bool) -> ssl.SSLContext:
    """Return the context of a server.

    Raises:
        SettingInvalid: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    # A client that renegotiates again and again would keep us busy (TLS 1.2).
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols([HTTP2, HTTP1] if http2 else [HTTP1])
    both = f"{files.certificate} and {files.key}"
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise SettingInvalid(
            f"TLS certificate and key {both} cannot be used: {_why(error)}; give a PEM certificate "
            "chain and its unencrypted private key"
        ) from error
    if files.client_ca is not None:
        _trust(context, files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class UpstreamTls:
    """Contexts for engines that speak TLS; one for all that trust the same CA."""

    def __init__(
        self, default_ca: Path | None = None, ca_of: Mapping[str, Path] | None = None
    ) -> None:
        """*default_ca* signs engines' certificates, but for those whose `host:port` is in *ca_of*;
        None: the system's CAs.

        Raises:
            SettingInvalid: a file cannot be used.
        """
        self._default_ca = default_ca
        self._ca_of = dict(ca_of or {})
        self._contexts: dict[Path | None, ssl.SSLContext] = {}
        self.reload()

    def paths(self) -> list[Path]:
        """Return the files that may change."""
        return sorted({*self._ca_of.values(), *([self._default_ca] if self._default_ca else [])})

    def reload(self) -> None:
        """Read the files again; those that cannot be used change nothing.

        Raises:
            SettingInvalid: one cannot be used.
        """
        self._contexts = {path: client_context(path) for path in self.paths()}

    def context(self, authority: str) -> ssl.SSLContext:
        """Return the context for the engine at *authority*."""
        ca = self._ca_of.get(authority, self._default_ca)
        known = self._contexts.get(ca)
        if known is None:
            # The system's CAs take a while to load, and are seldom needed.
            known = self._contexts[ca] = client_context(ca)
        return known


def client_context(ca: Path | None) -> ssl.SSLContext:
    """Return a context that trusts *ca* alone; None: the system's CAs.

    Raises:
        SettingInvalid: the file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([HTTP1])
    if ca is None:
        context.load_default_certs()
    else:
        _trust(context, ca)
    return context


def _trust(context: ssl.SSLContext, ca: Path) -> None:
    try:
        context.load_verify_locations(cafile=ca)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise SettingInvalid(
            f"CA file {ca} cannot be used: {_why(error)}; give PEM certificates"
        ) from error


def _no_password() -> str:
    # OpenSSL would ask the terminal for it.
    raise ValueError("the private key is encrypted")


def _why(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
