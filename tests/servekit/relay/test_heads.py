"""Heads: what every server reads the same way is read; everything else is refused."""

import tracemalloc

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from servekit.errors.tree import RequestInvalid, StreamCut
from servekit.relay.heads import (
    bearer,
    header_lines,
    read_request_head,
    read_response_head,
    with_lines,
)

GOOD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        b"Host: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        b"Host: x\r\nContent-Length: 2\r\nContent-Length: 2\r\n",
        b"Host: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n",
        b"Host: x\r\nContent-Length: 2, 2\r\n",
        b"Host: x\r\nContent-Length: +2\r\n",
        b"Host: x\r\nContent-Length: -1\r\n",
        b"Host: x\r\nContent-Length: 0x2\r\n",
        b"Host: x\r\nContent-Length:\r\n",
        b"Host: x\r\nTransfer-Encoding: gzip, chunked\r\n",
        b"Host: x\r\nTransfer-Encoding: xchunked\r\n",
        b"Host: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"Host: x\r\nTransfer-Encoding : chunked\r\n",
        b"Host: x\r\nA: b\r\n folded\r\n",
        b"Host: x\r\n\tfolded: b\r\n",
        b"Host: x\nA: b\r\n",
        b"Host: x\r\nA: b\rC: d\r\n",
        b"Host: x\r\nA: \x00\r\n",
        b"Host: x\r\nA\x80: b\r\n",
        b"Host: x\r\n: b\r\n",
        b"Host: x\r\nno colon\r\n",
        b"Host: x\r\nHost: y\r\n",
        b"A: b\r\n",
    ],
)
def test_head_that_servers_read_differently_is_refused(lines: bytes) -> None:
    """Never repaired: that is what request smuggling lives on."""
    with pytest.raises(RequestInvalid):
        read_request_head(b"POST / HTTP/1.1\r\n" + lines + b"\r\n")


@pytest.mark.parametrize(
    "line",
    [
        b"POST /\r\n",
        b"POST / HTTP/2.0\r\n",
        b"POST  / HTTP/1.1\r\n",
        b"post / HTTP/1.1\r\n",
        b"POST x/ HTTP/1.1\r\n",
        b"POST ftp://x/ HTTP/1.1\r\n",
        b"POST http:/// HTTP/1.1\r\n",
        b"POST http://u@x/ HTTP/1.1\r\n",
        b"CONNECT x:80 HTTP/1.1\r\n",
        b"OPTIONS * HTTP/1.1\r\n",
        b"POST /a b HTTP/1.1\r\n",
        b"POST /\x80 HTTP/1.1\r\n",
        b"\r\nPOST / HTTP/1.1\r\n",
        b" POST / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n",
    ],
)
def test_request_line_of_another_shape_is_refused(line: bytes) -> None:
    """Only a path, with or without a host before it, and HTTP/1.x."""
    with pytest.raises(RequestInvalid):
        read_request_head(line + b"Host: x\r\n\r\n")


def test_host_before_the_path_is_left_out() -> None:
    """A client that takes us for its proxy sends one; engines are asked for a path."""
    head = read_request_head(b"POST http://x:1/v1/a?b=/c HTTP/1.1\r\nHost: y\r\n\r\n")

    assert (head.target, head.path) == (b"/v1/a?b=/c", b"/v1/a")


def test_client_of_http_1_0_is_not_kept() -> None:
    """Even one that asks for it: it would wait for an end that it was not told of."""
    head = read_request_head(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")

    assert not head.keep_alive


def test_key_takes_the_place_of_every_other() -> None:
    """However often and in whatever letters the client has sent one."""
    head = read_request_head(
        b"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\nA: b\r\nAUTHORIZATION: c\r\n\r\n"
    )

    keyed = with_lines(head, bearer("k"), instead_of=frozenset([b"authorization"]))

    assert keyed.passed_on == b"A: b\r\nauthorization: Bearer k\r\n"


@given(st.binary(max_size=200))
@example(GOOD)
def test_any_bytes_are_a_head_or_refused(data: bytes) -> None:
    """Nothing else is raised, for requests and for answers."""
    for read, refused in ((read_request_head, RequestInvalid), (read_response_head, StreamCut)):
        try:
            read(data)
        except refused:
            continue


@given(
    position=st.integers(0, len(GOOD)),
    inserted=st.sampled_from(
        [b"\r", b"\n", b"\r\n", b" ", b"\t", b"\x00", b":", b",", b"Content-Length: 9\r\n", b"1"]
    ),
)
def test_what_is_read_is_what_a_strict_parser_reads(position: int, inserted: bytes) -> None:
    """A head that we take, llhttp takes too, and finds the same length."""
    head = GOOD[:position] + inserted + GOOD[position:]
    end = head.find(b"\r\n\r\n") + 4
    try:
        ours = read_request_head(head[:end])
    except RequestInvalid:
        return

    theirs = _Fields()
    httptools.HttpRequestParser(theirs).feed_data(head[:end])
    assert int(theirs.fields.get(b"content-length", b"0")) == ours.length


class _Fields:
    def __init__(self) -> None:
        self.fields: dict[bytes, bytes] = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields[name.lower()] = value


def test_answer_that_ends_with_its_connection_is_not_kept_alive() -> None:
    """Neither a length nor chunks: the end of the connection is the end of the body."""
    head = read_response_head(b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\n")

    assert (head.length, head.chunked, head.keep_alive) == (None, False, False)
    assert head.first == b"HTTP/1.1 200 OK\r\nServer: x\r\n"


@given(
    st.lists(
        st.sampled_from(
            [b"A: b", b"Host: x", b"CONNECTION: a", b"Content-Length: 1", b"A", b"b: "]
        ),
        max_size=6,
    )
)
def test_a_head_is_read_the_same_the_second_time(lines: list[bytes]) -> None:
    """Lines are remembered, what they mean together is not."""
    head = b"POST / HTTP/1.1\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"

    assert _read(head) == _read(head)


def _read(head: bytes) -> object:
    try:
        return read_request_head(head)
    except RequestInvalid as error:
        return str(error)


def test_a_key_is_not_remembered() -> None:
    """Its line is forgotten with its request."""
    read_request_head(b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key-of-nobody\r\n\r\n")

    assert not any(b"key-of-nobody" in line for line in header_lines)


def test_clients_cannot_fill_the_memory_with_lines() -> None:
    """Only so many are remembered, and no long ones."""
    tracemalloc.start()
    try:
        for number in range(10_000):
            read_request_head(
                b"GET / HTTP/1.1\r\nHost: x\r\nA: %d\r\nB: %b%d\r\n\r\n"
                % (number, b"x" * 2000, number)
            )
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert held < 2 << 20
