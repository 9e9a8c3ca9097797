"""The pure parts: health, retries, admission, keys, and what policies are told of a body."""

import hashlib
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadbalancer.balancing.admission import Admission
from loadbalancer.balancing.health import DEFAULT_REST_S, Health, HealthRules, rest_asked_s
from loadbalancer.balancing.replicas import ModelService
from loadbalancer.balancing.retry import BUDGET_FLOOR, BUDGET_SHARE, RetryBudget
from loadbalancer.server.keys import KeyRing, read_keys
from loadbalancer.server.request_info import look_at, routable_request
from servekit.errors.tree import RequestInvalid, SettingInvalid
from servekit.routing.registry import policy_named
from servekit.routing.request import RouteRequest


def test_failures_in_a_row_eject_for_longer_each_time() -> None:
    """1 s, 2 s, 4 s: a replica that keeps failing is asked ever less often."""
    health = Health(HealthRules(faults_to_eject=3, eject_s=1.0))
    assert [health.failed(0.0) for _ in range(3)] == [False, False, True]
    assert not health.available(0.9)
    assert health.available(1.0)

    assert health.failed(1.0)
    assert not health.available(2.9)
    health.succeeded()
    assert not health.failed(3.0)


def test_requests_that_fail_together_eject_once() -> None:
    """A crash fails whatever was in flight; that is one crash, and not the hundredth."""
    health = Health(HealthRules(faults_to_eject=3, eject_s=1.0))

    assert [health.failed(0.0) for _ in range(100)].count(True) == 1

    assert health.ejections == 1
    assert health.available(1.0)


def test_breaker_lets_one_request_through_when_its_time_is_over() -> None:
    """Closed, open, half open with one on trial, and closed by a success."""
    health = Health(HealthRules(faults_to_eject=1, eject_s=1.0))
    assert health.state(0.0) == "closed"
    assert not health.on_trial(0.0)
    health.failed(0.0)
    assert health.state(0.5) == "open"

    assert health.state(1.0) == "half-open"
    assert health.on_trial(1.0)
    assert not health.available(1.0)
    assert not health.on_trial(1.0)
    health.trial_over()
    assert health.available(1.0)
    assert health.on_trial(1.0)
    health.succeeded()

    assert health.state(1.0) == "closed"
    assert health.available(1.0)


def test_polls_take_out_and_bring_back() -> None:
    """Three in a row that fail; one that succeeds, which says that it had been away."""
    health = Health(HealthRules(polls_to_fail=3))
    for _ in range(3):
        assert health.available(0.0)
        health.poll_failed()

    assert not health.available(0.0)
    assert health.poll_succeeded()
    assert health.available(0.0)
    assert not health.poll_succeeded()


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({b"retry-after": b"7"}, 7.0),
        ({}, DEFAULT_REST_S),
        ({b"retry-after": b"soon"}, DEFAULT_REST_S),
        ({b"retry-after": b"-3"}, DEFAULT_REST_S),
        (
            {
                b"date": b"Sat, 21 Nov 2026 15:00:00 GMT",
                b"retry-after": b"Sat, 21 Nov 2026 15:00:20 GMT",
            },
            20.0,
        ),
        (
            {
                b"date": b"Sat, 21 Nov 2026 15:00:00 GMT",
                b"retry-after": b"Sat, 21 Nov 2026 14:00:00 GMT",
            },
            0.0,
        ),
        ({b"retry-after": b"Sat, 21 Nov 2026 15:00:20 GMT"}, DEFAULT_REST_S),
        ({b"retry-after": b"Sat, 21 Nov 2026 1:00869964454554"}, DEFAULT_REST_S),
    ],
)
def test_retry_after_is_seconds_or_a_time(fields: dict[bytes, bytes], seconds: float) -> None:
    """What is neither is as if it were not there."""
    assert rest_asked_s(fields) == seconds


def test_retry_after_is_respected_up_to_a_limit() -> None:
    """An engine cannot take itself out for an hour."""
    health = Health(HealthRules(rest_at_most_s=30.0))
    health.refused(0.0, 3600.0)

    assert not health.available(29.9)
    assert health.available(30.0)


@given(st.lists(st.booleans(), max_size=500))
def test_retries_stay_within_their_share(steps: list[bool]) -> None:
    """However requests and failures are mixed."""
    budget = RetryBudget()
    earned = spent = 0
    for is_request in steps:
        if is_request:
            budget.earn()
            earned += 1
        else:
            spent += budget.spend()

    assert spent <= BUDGET_FLOOR + BUDGET_SHARE * earned + 1e-6


class Guest:
    house: "House"

    def __init__(self) -> None:
        self.state = "new"

    def admitted(self, waited_s: float) -> None:
        self.state = f"in after {waited_s:g}"
        self.house.inside += 1

    def turned_away(self, why: str) -> None:
        del why
        self.state = "away"


class House:
    """Has room for as many guests as there are places."""

    def __init__(self, places: int, most_waiting: int, wait_s: float = 5.0) -> None:
        self.room = Admission(most_waiting, wait_s, lambda: self.inside < places)
        self.inside = 0

    def enter(self, guest: "Guest", now_s: float) -> None:
        guest.house = self
        self.room.enter(guest, now_s)

    def leave(self, now_s: float) -> None:
        self.inside -= 1
        self.room.let_in(now_s)


def test_who_finds_no_room_waits_in_order() -> None:
    """First come, first served, within a bound and a deadline."""
    room = House(places=1, most_waiting=2)
    guests = [Guest() for _ in range(5)]
    for at_s, guest in enumerate(guests[:4]):
        room.enter(guest, now_s=float(at_s))
    assert [g.state for g in guests[:4]] == ["in after 0", "new", "new", "away"]

    room.leave(now_s=4.0)
    room.room.expire(now_s=8.0)

    assert [g.state for g in guests[:3]] == ["in after 0", "in after 3", "away"]
    assert (room.inside, room.room.waiting) == (1, 0)


class PassThrough(Guest):
    """Leaves as soon as it is let in."""

    def __init__(self, room: House) -> None:
        super().__init__()
        self._room = room

    def admitted(self, waited_s: float) -> None:
        super().admitted(waited_s)
        self._room.leave(now_s=0.0)


def test_thousands_may_leave_as_soon_as_they_are_let_in() -> None:
    """So they do where the last replica has died while they waited; none is forgotten."""
    room = House(places=1, most_waiting=5000)
    room.enter(Guest(), now_s=0.0)
    crowd = [PassThrough(room) for _ in range(5000)]
    for guest in crowd:
        room.enter(guest, now_s=0.0)

    room.leave(now_s=0.0)

    assert {guest.state for guest in crowd} == {"in after 0"}
    assert (room.inside, room.room.waiting) == (0, 0)


def test_dismissed_guests_do_not_come_back() -> None:
    """Who is inside stays there."""
    room = House(places=1, most_waiting=5)
    guests = [Guest() for _ in range(3)]
    for guest in guests:
        room.enter(guest, now_s=0.0)

    room.room.dismiss("the model is gone")

    assert [g.state for g in guests] == ["in after 0", "away", "away"]
    assert (room.inside, room.room.waiting) == (1, 0)


@given(st.lists(st.sampled_from(["enter", "leave", "expire"]), max_size=60))
def test_admission_conserves_requests(steps: list[str]) -> None:
    """Nobody is lost, let in twice or over the limit, and nobody waits while there is room."""
    room = House(places=4, most_waiting=3, wait_s=1.0)
    guests: list[Guest] = []
    left = 0
    for now_s, step in enumerate(steps):
        if step == "enter":
            guests.append(Guest())
            room.enter(guests[-1], now_s=float(now_s))
        elif step == "expire":
            room.room.expire(float(now_s))
        elif room.inside:
            left += 1
            room.leave(now_s=float(now_s))

        inside = sum(g.state.startswith("in") for g in guests) - left
        assert room.inside == inside <= 4
        assert room.room.waiting == sum(g.state == "new" for g in guests)
        assert room.room.waiting == 0 or room.inside == 4


def test_key_ring_admits_its_keys_and_nobody_else() -> None:
    """Keys are kept as digests."""
    digest = hashlib.sha256(b"secret").hexdigest()
    ring = read_keys(f"# ours\n{digest}  # alice\n", "keys")

    assert ring.admits(b"Bearer secret")
    assert ring.admits(b"bearer secret")
    assert not ring.admits(b"Bearer Secret")
    assert not ring.admits(b"Basic secret")
    assert not ring.admits(b"")
    assert KeyRing().admits(b"")


@pytest.mark.parametrize(("text", "says"), [("secret\n", "line 1"), ("# none\n", "no key")])
def test_key_file_with_a_plain_key_is_refused_without_showing_it(text: str, says: str) -> None:
    """A key never stands in a message."""
    with pytest.raises(SettingInvalid, match=says) as refused:
        read_keys(text, "keys")

    assert "secret" not in str(refused.value)


def routed(body: bytes, policy: str = "prefix", **fields: bytes) -> RouteRequest:
    """Return what *policy* is told of *body*."""
    chosen = policy_named(policy, Random(0))
    service = ModelService("m", chosen, Admission(1, 1.0, None))
    heads = {name.replace("_", "-").encode(): value for name, value in fields.items()}
    return routable_request(service, chosen, look_at(body), heads, len(body)).route


def test_conversation_that_goes_on_shares_its_blocks() -> None:
    """The whole conversation counts, not its first message, and not what stands around it."""
    talk = '{"role":"user","content":"' + "lorem ipsum " * 200 + '"}'
    first = f'{{"model":"m","messages":[{talk}],"max_tokens":5}}'.encode()
    second = f'{{"stream":true,"model":"m","messages":[{talk},{talk}]}}'.encode()

    one, two = routed(first), routed(second)

    assert len(one.blocks) == 4
    assert two.blocks[:4] == one.blocks
    assert len(two.blocks) > 8
    assert one.prompt_tokens == pytest.approx(600, rel=0.02)


def test_conversation_of_a_response_is_its_input() -> None:
    """/v1/responses names it so."""
    assert len(routed(b'{"model":"m","input":"' + b"lorem ipsum " * 200 + b'"}').blocks) == 4


def test_salt_and_adapter_seed_the_hashes() -> None:
    """Engines keep their caches apart, from the first block on."""
    talk = b'"prompt":"' + b"lorem ipsum " * 200 + b'"}'
    plain = routed(b'{"model":"m",' + talk).blocks
    salted = routed(b'{"model":"m","cache_salt":"a",' + talk).blocks
    escaped = routed(b'{"model":"m","cache_salt":"\\u0061",' + talk).blocks
    other = routed(b'{"model":"m","cache_salt":"b",' + talk).blocks
    adapter = routed(b'{"model":"m-lora",' + talk).blocks

    assert salted == escaped
    assert not set(plain) & set(salted)
    assert not set(salted) & set(other)
    assert not set(plain) & set(adapter)


def test_image_does_not_make_a_prompt_long_for_a_policy_that_counts() -> None:
    """Also where no hash is wanted: `queue` counts the tokens that are read."""
    url = "data:image/png;base64," + "A" * 1_500_000
    body = (
        f'{{"messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"{url}"'
    )
    body += '}}]}],"model":"m"}'

    for policy in ("queue", "prefix", "latency"):
        assert 500 < routed(body.encode(), policy).prompt_tokens < 5_000


def test_estimate_follows_what_engines_count() -> None:
    """A tokenizer that makes twice as many tokens of a text: blocks hold twice as many."""
    policy = policy_named("prefix", Random(0))
    service = ModelService("m", policy, Admission(1, 1.0, None))
    body = b'{"model":"m","prompt":"' + b"lorem ipsum " * 200 + b'"}'
    for _ in range(20):
        routable = routable_request(service, policy, look_at(body), {}, len(body))
        service.tokens.learn(*routable.parts, 1200)

    route = routable_request(service, policy, look_at(body), {}, len(body)).route

    assert route.prompt_tokens == pytest.approx(1200, rel=0.1)
    assert route.block_tokens * len(route.blocks) == pytest.approx(1200, rel=0.2)


FIELD = b'\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n--'
AUDIO = (
    b'\r\nContent-Disposition: form-data; name="file"; filename="model"\r\n'
    b"Content-Type: audio/wav\r\n\r\nRIFF\x00\xff\r\n\r\n--\r\n--"
)


@pytest.mark.parametrize(
    ("fields", "model"),
    [
        ([FIELD % (b"model", b"whisper"), AUDIO], "whisper"),
        ([AUDIO, FIELD % (b"language", b"de"), FIELD % (b"model", b"a/b")], "a/b"),
        ([AUDIO, FIELD % (b"model_name", b"no"), FIELD % (b"supermodel", b"no")], ""),
        ([b"\r\ncontent-disposition:form-data;name=model\r\n\r\nbare\r\n--"], "bare"),
    ],
)
def test_form_names_its_model(fields: list[bytes], model: str) -> None:
    """Audio comes in a form, with the model before or behind it."""
    body = b"--B" + b"B".join(fields) + b"B--\r\n"

    assert look_at(body).model == model


@pytest.mark.parametrize(
    "body",
    [
        b"--",
        b"--B",
        b"--B\r\n" + b"\r\n--B" * 100,
        b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\n\xff\r\n--B--',
    ],
)
def test_form_that_is_none_is_refused(body: bytes) -> None:
    """Nor is a hostile one read for long."""
    with pytest.raises(RequestInvalid):
        look_at(body)


def test_session_is_a_header_a_cookie_or_a_field() -> None:
    """The first of them counts."""
    key = b'{"model":"m","prompt_cache_key":"k","user":"u"}'
    cookie = b"a=1; session_id=abc"

    assert routed(key, "session", x_session_id=b"xyz", cookie=cookie).session == "xyz"
    assert routed(key, "session", cookie=cookie).session == "abc"
    assert routed(key, "session").session == "k"
    assert routed(b'{"model":"m","user":"u"}', "session").session == "u"
    assert routed(b'{"model":"m","user":7}', "session").session is None


@given(st.binary(max_size=60) | st.binary(max_size=60).map(b"--B\r\n".__add__))
def test_any_body_is_looked_at_or_refused(body: bytes) -> None:
    """Nothing else is raised."""
    try:
        look_at(body)
    except RequestInvalid:
        return
