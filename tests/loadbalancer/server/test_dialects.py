"""Every path by its row of the table: who may ask, which replica is asked, how failures look."""

import asyncio
import hashlib
import json
from typing import Any

import pytest

from loadbalancer.balancing.balancer import Balancer
from loadbalancer.server.keys import KeyRing
from servekit.wire.sse import SseDecoder
from servekit.wire.streams import read_event
from tests.loadbalancer.dialect_engine import DialectEngine
from tests.loadbalancer.engine import running, talk

MESSAGES, RESPONSES, CHAT = "/v1/messages", "/v1/responses", "/v1/chat/completions"
CLOSE = b"connection: close\r\n"


def ring(*keys: str) -> KeyRing:
    return KeyRing(hashlib.sha256(key.encode()).hexdigest() for key in keys)


def to(
    path: str, body: dict[str, Any] | None = None, method: str = "", lines: bytes = b""
) -> bytes:
    sent = b"" if body is None else json.dumps(body).encode()
    method = method or ("GET" if body is None else "POST")
    start = f"{method} {path} HTTP/1.1\r\nhost: x\r\n".encode() + CLOSE + lines
    return start + b"content-length: %d\r\n\r\n%b" % (len(sent), sent)


def asks(path: str, *, stream: bool = False, **more: Any) -> bytes:
    said = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    asked = {"input": "hi"} if path == RESPONSES else said
    return to(path, {"model": "m", "stream": stream, **asked, **more})


def parts(answer: bytes) -> tuple[int, bytes, Any]:
    """Return status, head and body; JSON where it is."""
    head, _, body = answer.partition(b"\r\n\r\n")
    try:
        return int(head.split(b" ")[1]), head.lower(), json.loads(body)
    except ValueError:
        return int(head.split(b" ")[1]), head.lower(), body


def header(head: bytes, name: bytes) -> bytes:
    found = [line for line in head.split(b"\r\n") if line.startswith(name + b":")]
    assert len(found) == 1, (name, head)
    return found[0].partition(b": ")[2]


# Cuts.


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES, CHAT])
async def test_cut_stream_says_so_in_its_dialect_and_has_no_end(path: str) -> None:
    """Nothing that a client takes for the end of an answer follows."""
    async with running(DialectEngine(dies="middle")) as (_, port):
        answer = await talk(port, asks(path, stream=True))

    assert not answer.endswith(b"0\r\n\r\n")
    last = answer.rpartition(b"\r\n\r\n")[2] or answer.split(b"\r\n")[-2]
    *_, event = SseDecoder().feed(last.partition(b"\r\n")[2])
    assert "closed the connection" in (read_event(event).error or "")
    assert event.kind == ("message" if path == CHAT else "error")


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES, CHAT])
async def test_stream_that_ends_with_its_connection_is_cut_where_its_end_is_missing(
    path: str,
) -> None:
    """An engine that dies closes its connections too."""
    async with running(DialectEngine(old=True)) as (_, port):
        whole = await talk(port, asks(path, stream=True))
    async with running(DialectEngine(old=True, dies="middle")) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(asks(path, stream=True))
        with pytest.raises(ConnectionResetError):
            while await reader.read(1 << 16):
                pass
        writer.close()

    assert b"three" in whole


async def test_cut_stream_of_a_path_that_is_not_known_just_breaks_off() -> None:
    """What an event would mean there is unknown."""
    engine = DialectEngine(dies="middle")
    async with running(engine, extra_paths=("/v1/odd",)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(asks("/v1/odd", stream=True))
        answer = bytearray()
        with pytest.raises(ConnectionResetError):
            while piece := await reader.read(1 << 16):
                answer += piece
        writer.close()

    assert b"one" in answer
    assert b"error" not in answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES, CHAT, "/v1/completions"])
@pytest.mark.parametrize("stream", [True, False])
async def test_cut_of_an_http_1_0_answer_is_a_reset(path: str, stream: bool) -> None:
    """It has no other end than that of the connection, and that must not look like one."""
    old = asks(path, stream=stream).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    async with running(DialectEngine(dies="middle")) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(old)
        with pytest.raises(ConnectionResetError):
            while await reader.read(1 << 16):
                pass
        writer.close()


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES, CHAT])
async def test_engine_that_dies_before_its_first_byte_costs_nothing(path: str) -> None:
    """Another one is asked, in every dialect."""
    engines = DialectEngine(dies="before"), DialectEngine()
    async with running(*engines) as (_, port):
        answers = [await talk(port, asks(path, stream=True)) for _ in range(2)]

    assert all(answer.endswith(b"0\r\n\r\n") for answer in answers)


# Refusals.


@pytest.mark.parametrize("path", [MESSAGES, "/v1/messages/count_tokens"])
async def test_refusals_of_messages_are_anthropics(path: str) -> None:
    """401, 404, 413 and 503, each with its type."""
    body = {"model": "gone", "messages": []}
    rules: dict[str, Any] = {"max_body_bytes": 2000}
    async with running(DialectEngine(), keys=ring("k"), **rules) as (_, port):
        key = b"x-api-key: k\r\n"
        no_key = parts(await talk(port, to(path, body)))
        no_model = parts(await talk(port, to(path, body, lines=key)))
        large = parts(await talk(port, to(path, {"model": "m" * 3000}, lines=key)))
    async with running(DialectEngine(dies="before")) as (_, port):
        gone = parts(await talk(port, asks(MESSAGES)))

    found = [(status, said["type"], said["error"]["type"]) for status, _, said in (
        no_key, no_model, large, gone
    )]  # fmt: skip
    assert found == [
        (401, "error", "authentication_error"),
        (404, "error", "not_found_error"),
        (413, "error", "request_too_large"),
        (502, "error", "api_error"),
    ]


async def test_full_fleet_is_overloaded_to_anthropics_clients() -> None:
    """With the header by which they know when to come back."""
    async with running(DialectEngine()) as (balancer, port):
        balancer.replicas["r0"].health.refused(balancer.now(), 7.0)
        balancer.refresh()
        status, head, said = parts(await talk(port, asks(MESSAGES)))

    assert (status, said["error"]["type"]) == (503, "overloaded_error")
    assert int(header(head, b"retry-after")) in (6, 7)


# Who may ask.


@pytest.mark.parametrize(
    "path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/sleep", "/v1/systemone"]
)
async def test_nobody_changes_an_engine_without_admin_keys(path: str) -> None:
    """They are not there at all, for clients with a key neither."""
    engine = DialectEngine()
    async with running(engine, keys=ring("k")) as (_, port):
        lines = b"authorization: Bearer k\r\n"
        answer = await talk(port, to(path, {"lora_name": "a", "model": "m"}, lines=lines))

    assert parts(answer)[0] == 404
    assert engine.asked == []


async def test_admin_asks_every_replica_and_is_told_what_each_said() -> None:
    """And an adapter can be asked for as soon as the answer is there."""
    engines = DialectEngine(), DialectEngine()
    body = {"lora_name": "a", "lora_path": "/a"}
    keys, admins = ring("k"), ring("admin")
    async with running(*engines, keys=keys, admin_keys=admins, engine_key="e") as (_, port):
        as_client = await talk(
            port, to("/v1/load_lora_adapter", body, lines=b"authorization: Bearer k\r\n")
        )
        admin = b"authorization: Bearer admin\r\n"
        loaded = parts(await talk(port, to("/v1/load_lora_adapter", body, lines=admin)))
        asked = await talk(port, to(CHAT, {"model": "a"}, lines=admin))
        sleeping = parts(await talk(port, to("/is_sleeping", lines=admin)))

    assert parts(as_client)[0] == 401
    success = {"status": 200, "answer": "Success: LoRA adapter 'a'."}
    assert loaded[::2] == (200, {"replicas": {"r0": success, "r1": success}})
    assert parts(asked)[0] == 200
    assert sleeping[2]["replicas"]["r1"] == {"status": 200, "answer": {"is_sleeping": True}}
    sent = engines[0].heads[0].lower()
    assert b"authorization: bearer e\r\n" in sent
    assert b"admin" not in sent


async def test_admins_answer_says_who_did_not_do_it() -> None:
    """Half a success is none."""
    engines = DialectEngine(), DialectEngine(models=["m", "a"])
    async with running(*engines, admin_keys=ring("admin")) as (balancer, port):
        balancer.add("r2", "http://127.0.0.1:9", ("m",))
        lines = b"authorization: Bearer admin\r\n"
        answer = await talk(port, to("/sleep", {}, lines=lines))
        one = await talk(port, to("/sleep", {}, lines=lines + b"x-servekit-model: a\r\n"))
        none = await talk(port, to("/sleep", {}, lines=lines + b"x-servekit-model: b\r\n"))

    status, _, said = parts(answer)
    assert status == 502
    assert [said["replicas"][name]["status"] for name in ("r0", "r1", "r2")] == [200, 200, None]
    assert "cannot be connected" in said["replicas"]["r2"]["error"]
    assert list(parts(one)[2]["replicas"]) == ["r1"]
    assert parts(none)[0] == 404


async def test_state_of_the_fleet_is_for_admins_where_there_are_any() -> None:
    """Clients see neither addresses nor each other's decisions."""
    async with running(DialectEngine(), keys=ring("k"), admin_keys=ring("admin")) as (_, port):
        for path in ("/metrics", "/replicas", "/decisions"):
            client, admin, none = [
                parts(await talk(port, to(path, lines=lines)))[0]
                for lines in (b"x-api-key: k\r\n", b"x-api-key: admin\r\n", b"")
            ]
            assert (client, admin, none) == (401, 200, 401), path


# What travels.


async def test_keys_and_cookies_end_here() -> None:
    """Also where engines have no key of their own."""
    engine = DialectEngine()
    secrets = (
        b"authorization: Bearer k\r\nx-api-key: k2\r\napi-key: k3\r\ncookie: sid=k4\r\n"
        b"origin: https://page\r\n"
    )
    async with running(engine, keys=ring("k")) as (_, port):
        assert parts(await talk(port, to(CHAT, {"model": "m"}, lines=secrets)))[0] == 200

    sent = engine.heads[0].lower()
    assert not any(
        name in sent for name in (b"authorization", b"api-key", b"cookie", b"origin", b"k4")
    )


@pytest.mark.parametrize("name", [b"authorization: Bearer k", b"x-api-key: k", b"api-key: k"])
async def test_key_may_come_in_the_header_of_each_api(name: bytes) -> None:
    """Anthropic's clients and Azure's have one of their own."""
    async with running(DialectEngine(), keys=ring("k")) as (_, port):
        right = parts(await talk(port, to("/v1/models", lines=name + b"\r\n")))[0]
        wrong = parts(await talk(port, to("/v1/models", lines=name + b"x\r\n")))[0]

    assert (right, wrong) == (200, 401)


async def test_request_has_an_id_and_says_where_it_came_from() -> None:
    """Kept where the client gave one that can be searched for, and made where not."""
    engine = DialectEngine()
    given = b"x-request-id: id-1\r\nx-forwarded-for: 10.0.0.9\r\n"
    async with running(engine) as (_, port):
        kept = parts(await talk(port, to(CHAT, {"model": "m"}, lines=given)))
        made = [parts(await talk(port, to(CHAT, {"model": "m"}))) for _ in range(2)]
        odd = parts(await talk(port, to(CHAT, {"model": "m"}, lines=b"x-request-id: a b\r\n")))
        refused = parts(await talk(port, to(CHAT, {"model": "gone"}, lines=given)))
        unread = parts(await talk(port, to("/v1/gone", lines=given)))
        own = parts(await talk(port, to("/v1/models", lines=given)))

    assert {header(a[1], b"x-request-id") for a in (kept, refused, unread, own)} == {b"id-1"}
    ids = [header(a[1], b"x-request-id") for a in (*made, odd)]
    assert len({*ids, b"a b"}) == 4
    sent = [head.lower() for head in engine.heads]
    assert header(sent[0], b"x-request-id") == b"id-1"
    assert header(sent[0], b"x-forwarded-for") == b"10.0.0.9, 127.0.0.1"
    assert header(sent[1], b"x-request-id") == ids[0]
    assert header(sent[1], b"x-forwarded-for") == b"127.0.0.1"


async def test_clients_are_not_told_where_engines_are() -> None:
    """Neither in headers, nor in errors, nor by who asks for the health."""
    async with running() as (balancer, port):
        url = "http://127.0.0.1:9"
        balancer.add("127.0.0.1:9", url, ("m",))
        answers = [await talk(port, ask) for ask in (asks(CHAT), to("/health"), to("/v1/models"))]
    async with running(DialectEngine()) as (balancer, port):
        url = balancer.replicas["r0"].upstream.address.authority
        balancer.remove("r0")
        balancer.add(url, f"http://{url}", ("m",))
        answers.append(await talk(port, asks(CHAT)))

    assert b"502" in answers[0].split(b"\r\n")[0]
    assert header(parts(answers[-1])[1], b"x-servekit-replica").startswith(b"replica-")
    assert not any(b"127.0.0.1" in answer for answer in answers)


async def test_policy_of_a_request_can_be_switched_off() -> None:
    """A client is then given the one that was configured, whatever it asks for."""
    lines = b"x-servekit-policy: nonsense\r\n"
    async with running(DialectEngine(), policy_header=False) as (_, port):
        status, head, _ = parts(await talk(port, to(CHAT, {"model": "m"}, lines=lines)))

    assert (status, header(head, b"x-servekit-policy")) == (200, b"round-robin")


# Models.


async def test_model_is_found_by_its_name() -> None:
    """With a slash, however that is written, and for Anthropic's clients in their words."""
    engine = DialectEngine(models=["org/m-1.5"])
    async with running(engine) as (_, port):
        plain = parts(await talk(port, to("/v1/models/org/m-1.5")))
        escaped = parts(await talk(port, to("/v1/models/org%2Fm-1.5")))
        gone = parts(await talk(port, to("/v1/models/org/m")))
        version = b"anthropic-version: 2023-06-01\r\n"
        theirs = parts(await talk(port, to("/v1/models/org/m-1.5", lines=version)))
        listed = parts(await talk(port, to("/v1/models", lines=version)))

    assert plain[2] == escaped[2]
    assert (plain[2]["id"], plain[2]["object"]) == ("org/m-1.5", "model")
    assert (gone[0], gone[2]["error"]["code"]) == (404, 404)
    assert (theirs[2]["type"], theirs[2]["display_name"]) == ("model", "org/m-1.5")
    assert (listed[2]["first_id"], listed[2]["has_more"]) == ("org/m-1.5", False)


# Responses.


@pytest.mark.parametrize("stream", [True, False])
async def test_response_is_asked_for_where_it_is_kept(stream: bool) -> None:
    """To be read, cancelled, continued and deleted, and nowhere else."""
    engines = [DialectEngine(number=number) for number in range(3)]
    async with running(*engines) as (_, port):
        for _ in range(3):
            await talk(port, asks(RESPONSES, stream=stream))
        for engine in engines:
            (identity,) = engine.made
            for asked in (
                to(f"{RESPONSES}/{identity}"),
                to(f"{RESPONSES}/{identity}/cancel", {}),
                asks(RESPONSES, previous_response_id=identity),
                to(f"{RESPONSES}/{identity}", method="DELETE"),
            ):
                assert parts(await talk(port, asked))[0] == 200, asked

    for engine in engines:
        kinds = [asked.split(" ")[0] for asked in engine.asked]
        assert kinds == ["POST", "GET", "POST", "POST", "DELETE"]


async def test_response_of_which_nothing_is_known_is_looked_for() -> None:
    """As after a restart; one that is kept nowhere is not found, in the words of the API."""
    engines = [DialectEngine(number=number) for number in range(3)]
    engines[2].made.append("resp_old")
    async with running(*engines) as (_, port):
        found = parts(await talk(port, to(f"{RESPONSES}/resp_old")))
        again = parts(await talk(port, to(f"{RESPONSES}/resp_old")))
        gone = parts(await talk(port, to(f"{RESPONSES}/resp_gone")))

    assert found[0] == again[0] == 200
    assert (gone[0], gone[2]["error"]["type"]) == (404, "NotFoundError")
    assert len(engines[0].asked) == 2
    assert len(engines[2].asked) == 4


async def test_response_whose_replica_has_left_is_gone() -> None:
    """Not asked for elsewhere."""
    engines = [DialectEngine(number=number) for number in range(2)]
    async with running(*engines) as (balancer, port):
        await talk(port, asks(RESPONSES))
        (identity,) = [made for engine in engines for made in engine.made]
        owner = next(r for r in balancer.replicas.values() if r.name == f"r{identity[5]}")
        balancer.remove(owner.name)
        answer = parts(await talk(port, to(f"{RESPONSES}/{identity}")))

    assert answer[0] == 404


# Sessions.


SESSIONS: list[tuple[dict[str, Any], bytes]] = [
    ({"prompt_cache_key": "s"}, b""),
    ({"user": "s"}, b""),
    ({"metadata": {"user_id": "s"}}, b""),
    ({}, b"x-session-id: s\r\n"),
    ({}, b"cookie: a=b; session_id=s\r\n"),
]


@pytest.mark.parametrize("policy", ["round-robin", "latency", "random", "session", "queue"])
@pytest.mark.parametrize(("body", "lines"), SESSIONS)
async def test_session_stays_where_it_is_under_every_policy(
    policy: str, body: dict[str, Any], lines: bytes
) -> None:
    """By whichever name it has."""
    engines = [DialectEngine() for _ in range(4)]
    async with running(*engines, policy=policy) as (_, port):
        for _ in range(8):
            await talk(port, to(CHAT, {"model": "m", **body}, lines=lines))

    assert sorted(len(engine.asked) for engine in engines) == [0, 0, 0, 8]


async def test_sessions_can_be_ignored() -> None:
    """By who wants the policy to decide alone."""
    engines = [DialectEngine() for _ in range(4)]
    async with running(*engines, sessions=None) as (_, port):
        for _ in range(8):
            await talk(port, to(CHAT, {"model": "m", "user": "s"}))

    assert [len(engine.asked) for engine in engines] == [2, 2, 2, 2]


async def test_session_whose_replica_leaves_goes_on_elsewhere() -> None:
    """Its home is a wish, and no condition."""
    engines = [DialectEngine() for _ in range(3)]
    async with running(*engines) as (balancer, port):
        ask = to(CHAT, {"model": "m", "user": "s"})
        home = header(parts(await talk(port, ask))[1], b"x-servekit-replica").decode()
        balancer.remove(home)
        status, head, _ = parts(await talk(port, ask))

    assert status == 200
    assert header(head, b"x-servekit-replica") != home.encode()


# Pages in browsers.


async def test_page_may_read_what_its_origin_was_allowed() -> None:
    """Errors and answers alike; the browser asks first, without a key."""
    origin = b"origin: https://page\r\n"
    asking = origin + (
        b"access-control-request-method: POST\r\n"
        b"access-control-request-headers: authorization,content-type\r\n"
    )
    rules: dict[str, Any] = {"cors_origins": ("https://page",)}
    async with running(DialectEngine(), keys=ring("k"), **rules) as (_, port):
        first = parts(await talk(port, to(CHAT, method="OPTIONS", lines=asking)))
        refused = parts(await talk(port, to(CHAT, {"model": "m"}, lines=origin)))
        key = b"authorization: Bearer k\r\n"
        good = parts(await talk(port, to(CHAT, {"model": "m"}, lines=origin + key)))
        other = asking.replace(b"//page", b"//other")
        others = parts(await talk(port, to(CHAT, method="OPTIONS", lines=other)))

    assert (first[0], refused[0], good[0]) == (200, 401, 200)
    for answer in (first, refused, good):
        assert header(answer[1], b"access-control-allow-origin") == b"https://page"
    assert header(first[1], b"access-control-allow-methods") == b"post"
    assert header(first[1], b"access-control-allow-headers") == b"authorization,content-type"
    assert b"access-control-allow" not in others[1]


async def test_pages_may_read_nothing_unless_they_were_allowed() -> None:
    """The default."""
    async with running(DialectEngine()) as (_, port):
        asking = b"origin: https://page\r\naccess-control-request-method: POST\r\n"
        first = parts(await talk(port, to(CHAT, method="OPTIONS", lines=asking)))
        answer = parts(await talk(port, to(CHAT, {"model": "m"}, lines=asking)))

    assert (first[0], answer[0]) == (405, 200)
    assert b"access-control" not in first[1] + answer[1]


# Several engines behind one host.


async def test_engines_behind_one_host_have_their_paths() -> None:
    """Each is asked below its own."""
    engine = DialectEngine()
    async with running(engine) as (balancer, port):
        balancer.remove("r0")
        url = engine.url
        for name in ("a", "b"):
            balancer.add(name, f"{url}/{name}", ("m",))
        for _ in range(2):
            await talk(port, asks(CHAT))

    assert sorted(engine.asked) == [f"POST /a{CHAT}", f"POST /b{CHAT}"]


def known(balancer: Balancer) -> set[str]:
    return set(balancer.services)


async def test_adapters_of_a_fleets_replicas_are_found() -> None:
    """Beside the model that the fleet says they serve."""
    engine = DialectEngine(models=["m", "adapter"])
    async with running(engine) as (balancer, port):
        balancer.remove("r0")
        balancer.add("declared", engine.url, ("m",))
        replica = balancer.replicas["declared"]
        _, listed = await replica.upstream.fetch("/v1/models", 5.0)
        balancer.listed(replica, tuple(card["id"] for card in json.loads(listed)["data"]))
        answer = await talk(port, to(CHAT, {"model": "adapter"}))

    assert parts(answer)[0] == 200
    assert known(balancer) >= {"m", "adapter"}
