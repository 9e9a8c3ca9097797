"""TLS towards clients and towards replicas, with Python's own client and OpenSSL's certificates."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from servekit.errors.tree import SettingInvalid
from servekit.relay.tls import ServerTls, ServerTlsFiles, UpstreamTls
from tests.loadbalancer.engine import Engine, request, serving
from tests.loadbalancer.started import started
from tests.loadbalancer.test_plan import planned
from tests.support.certificates import Certificate, authority, signed

ASK = request(lines=b"connection: close\r\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def ca(folder: Path) -> Certificate:
    return authority(folder, "ca")


@pytest.fixture(scope="module")
def server(folder: Path, ca: Certificate) -> Certificate:
    return signed(folder, "server", ca)


def trusting(ca: Certificate, own: Certificate | None = None) -> ssl.SSLContext:
    """Return the context of a client that trusts *ca*, and proves itself with *own*."""
    context = ssl.create_default_context(cafile=ca.pem)
    if own is not None:
        context.load_cert_chain(own.pem, own.key)
    return context


async def until_true(asked: Callable[[], Awaitable[bool]]) -> None:
    """Return once it is so."""
    async with asyncio.timeout(20.0):
        while not await asked():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def ask(port: int, context: ssl.SSLContext, data: bytes = ASK) -> tuple[bytes, str]:
    """Return what comes back for *data*, and the serial number of the server's certificate."""
    reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
    serial = writer.get_extra_info("peercert")["serialNumber"]
    writer.write(data)
    async with asyncio.timeout(30.0):
        answer = await reader.read(-1)
    writer.close()
    return answer, serial


def options(certificate: Certificate) -> tuple[str, ...]:
    return ("--tls-cert", str(certificate.pem), "--tls-key", str(certificate.key))


@asynccontextmanager
async def secure_engine(engine: Engine, certificate: Certificate) -> AsyncIterator[str]:
    """Give the `host:port` of *engine*, which speaks TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.pem, certificate.key)
    listening = await asyncio.start_server(engine.serve, "127.0.0.1", 0, ssl=context)
    async with listening:
        yield f"localhost:{listening.sockets[0].getsockname()[1]}"


async def test_clients_speak_tls_1_2_or_newer(ca: Certificate, server: Certificate) -> None:
    """The address that is announced says so; older versions, weak ciphers and plain HTTP do not."""
    async with (
        serving(Engine("stream")) as urls,
        started("--endpoints", urls[0], "--admin-port", "0", *options(server)) as balancer,
    ):
        newest = trusting(ca)
        second = trusting(ca)
        second.maximum_version = ssl.TLSVersion.TLSv1_2
        weak = trusting(ca)
        weak.maximum_version = ssl.TLSVersion.TLSv1_2
        weak.set_ciphers("ECDHE-ECDSA-AES128-SHA256:AES128-GCM-SHA256")
        answers = [(await ask(balancer.port, context))[0] for context in (newest, second)]
        metrics, _ = await ask(
            balancer.admin_port,
            newest,
            b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        )
        with pytest.raises((ssl.SSLError, OSError)):
            await ask(balancer.port, weak)
        reader, writer = await asyncio.open_connection("127.0.0.1", balancer.port)
        writer.write(ASK)
        plain = await reader.read(-1)
        writer.close()

    assert balancer.ready["url"].startswith("https://")
    assert all(a.startswith(b"HTTP/1.1 200") and b"[DONE]" in a for a in answers)
    assert metrics.startswith(b"HTTP/1.1 200")
    assert b"HTTP" not in plain


async def test_client_certificate_is_required_where_a_ca_for_it_is_given(
    folder: Path, ca: Certificate, server: Certificate
) -> None:
    """None, or one of another CA, gets no answer at all."""
    client = signed(folder, "client", ca)
    stranger = signed(folder, "stranger", authority(folder, "other"))
    async with (
        serving(Engine()) as urls,
        started(
            "--endpoints", urls[0], *options(server), "--tls-client-ca", str(ca.pem)
        ) as balancer,
    ):
        good, _ = await ask(balancer.port, trusting(ca, client))
        for context in (trusting(ca), trusting(ca, stranger)):
            with pytest.raises((ssl.SSLError, OSError, AssertionError)):
                answer, _ = await ask(balancer.port, context)
                assert answer != b""

    assert good.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("workers", [1, 2])
async def test_new_certificate_holds_for_new_connections(
    folder: Path, ca: Certificate, tmp_path: Path, workers: int
) -> None:
    """Those that stand go on; one that cannot be used changes nothing."""
    first, second = signed(folder, "first", ca), signed(folder, "second", ca)
    used = Certificate(tmp_path / "used.pem", tmp_path / "used.key")

    def put(certificate: Certificate) -> None:
        used.pem.write_bytes(certificate.pem.read_bytes())
        used.key.write_bytes(certificate.key.read_bytes())

    put(first)
    async with (
        serving(Engine()) as urls,
        started("--endpoints", urls[0], *options(used), "--workers", str(workers)) as balancer,
    ):
        reader, writer = await asyncio.open_connection("localhost", balancer.port, ssl=trusting(ca))
        _, before = await ask(balancer.port, trusting(ca))
        used.pem.write_text("no certificate")
        await asyncio.sleep(1.5)
        _, meanwhile = await ask(balancer.port, trusting(ca))
        put(second)

        async def changed() -> bool:
            serials = {(await ask(balancer.port, trusting(ca)))[1] for _ in range(8)}
            return len(serials) == 1 and serials != {before}

        await until_true(changed)
        writer.write(ASK)
        old_connection = await reader.read(-1)
        writer.close()

    assert meanwhile == before
    assert old_connection.startswith(b"HTTP/1.1 200")


async def test_replica_is_trusted_by_the_ca_that_it_was_given(
    folder: Path, ca: Certificate, server: Certificate
) -> None:
    """One for all, or one for a single replica; whom it did not sign stays out."""
    other = authority(folder, "another")
    elsewhere = signed(folder, "elsewhere", other)
    good, bad = Engine(), Engine()
    async with (
        secure_engine(good, server) as ours,
        secure_engine(bad, elsewhere) as theirs,
    ):
        urls = ("--endpoints", f"https://{ours},https://{theirs}")
        async with started(*urls, "--upstream-ca", str(ca.pem)) as balancer:
            answers = [await _plain(balancer.port) for _ in range(6)]
        assert all(a.startswith(b"HTTP/1.1 200") for a in answers)
        assert (len(good.bodies), len(bad.bodies)) == (6, 0)

        both = f"{ca.pem},{theirs}={other.pem}"
        async with started(*urls, "--upstream-ca", both, "--policy", "round-robin") as balancer:
            answers = [await _plain(balancer.port) for _ in range(6)]
        assert all(a.startswith(b"HTTP/1.1 200") for a in answers)
        assert len(bad.bodies) >= 2


async def _plain(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(ASK)
    async with asyncio.timeout(30.0):
        answer = await reader.read(-1)
    writer.close()
    return answer


async def test_clients_that_never_shake_hands_hold_nobody_up(
    ca: Certificate, server: Certificate
) -> None:
    """Others are served beside them, and the program stops without waiting for them."""
    async with serving(Engine()) as urls:
        async with started("--endpoints", urls[0], *options(server)) as balancer:
            silent = [await asyncio.open_connection("127.0.0.1", balancer.port) for _ in range(50)]
            answer, _ = await ask(balancer.port, trusting(ca))
            begun_s = asyncio.get_running_loop().time()
        took_s = asyncio.get_running_loop().time() - begun_s
        for _, writer in silent:
            writer.close()

    assert answer.startswith(b"HTTP/1.1 200")
    assert took_s < 5.0


async def test_refusal_reaches_a_client_that_is_still_sending(
    ca: Certificate, server: Certificate
) -> None:
    """Over TLS the rest is read and dropped too, and the connection is closed in order."""
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999999\r\n\r\n"
    async with (
        serving(Engine()) as urls,
        started("--endpoints", urls[0], *options(server)) as balancer,
    ):
        answer, _ = await ask(balancer.port, trusting(ca), head + b"x" * 1_000_000)

    assert answer.startswith(b"HTTP/1.1 413")


def test_file_that_cannot_be_used_is_named(
    folder: Path, ca: Certificate, server: Certificate
) -> None:
    """And what was there before stays."""
    missing, text = folder / "missing.pem", folder / "text.pem"
    text.write_text("hello")
    for files in (
        ServerTlsFiles(missing, missing),
        ServerTlsFiles(text, server.key),
        ServerTlsFiles(server.pem, ca.key),
        ServerTlsFiles(server.pem, server.key, text),
    ):
        with pytest.raises(SettingInvalid, match=r"missing\.pem|text\.pem|ca\.key"):
            ServerTls(files, http2=False)
    with pytest.raises(SettingInvalid, match=r"text\.pem"):
        UpstreamTls(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tls-key", "k.pem"), "--tls-cert"),
        (("--tls-client-ca", "ca.pem"), "--tls-cert"),
        (("--upstream-ca", "a.pem,b.pem"), "2 files"),
        (("--upstream-ca", "h:1=a.pem,h:1=b.pem"), "twice"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: tuple[str, ...], said: str
) -> None:
    """With the remedy."""
    with pytest.raises(SettingInvalid, match=said):
        planned(*options)


def test_key_may_be_in_the_file_of_the_certificate() -> None:
    """As many tools write them."""
    plan = planned("--tls-cert", "both.pem")

    assert plan.tls == ServerTlsFiles(Path("both.pem"), Path("both.pem"))
