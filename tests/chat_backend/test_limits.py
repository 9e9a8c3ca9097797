"""Rates: laws of the bucket."""

from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_backend.failures import RateExceeded
from chat_backend.limits import MAX_CLIENTS, RateLimit, TrustedProxies
from servekit.errors.tree import SettingInvalid
from simulator.servers import ReplicaServer
from tests.chat_backend.services import backend


@given(
    per_minute=st.integers(1, 100),
    gaps=st.lists(st.floats(0, 30, allow_nan=False), max_size=200),
)
def test_no_client_gets_more_than_its_rate(per_minute: int, gaps: list[float]) -> None:
    """In any minute: a bucket's worth, and what flowed in meanwhile."""
    limit = RateLimit(per_minute)
    now, taken = 0.0, []
    for gap in gaps:
        now += gap
        try:
            limit.take("a", now)
        except RateExceeded:
            continue
        taken.append(now)

    for start in taken:
        assert sum(start <= moment < start + 60 for moment in taken) <= 2 * per_minute


def test_whoever_waits_as_told_is_taken() -> None:
    """The wait in the refusal is enough, and not a moment too long."""
    limit = RateLimit(6)
    for _ in range(6):
        limit.take("a", 0.0)
    with pytest.raises(RateExceeded) as refused:
        limit.take("a", 1.0)

    limit.take("a", 1.0 + refused.value.wait_s)

    with pytest.raises(RateExceeded):
        limit.take("a", 1.0 + refused.value.wait_s)


def test_clients_do_not_share() -> None:
    """One client's haste is not another's wait."""
    limit = RateLimit(1)
    limit.take("a", 0.0)

    limit.take("b", 0.0)


def test_zero_takes_everything() -> None:
    """For a backend behind a gateway that limits already."""
    limit = RateLimit(0)
    for _ in range(1000):
        limit.take("a", 0.0)


def test_clients_that_are_gone_are_forgotten() -> None:
    """Addresses are cheap to invent; memory is not."""
    limit = RateLimit(1)
    for number in range(MAX_CLIENTS + 1):
        limit.take(str(number), 0.0)

    limit.take("0", 0.0)


CLUSTER = TrustedProxies(["10.0.0.0/8", "192.168.0.0/16"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.7", [], "203.0.113.7"),
        # One who is not trusted may write what they like.
        ("203.0.113.7", ["198.51.100.1"], "203.0.113.7"),
        # Load balancer, node, page's proxy.
        ("192.168.1.2", ["203.0.113.7, 10.10.128.5"], "203.0.113.7"),
        ("192.168.1.2", ["203.0.113.7", "10.10.128.5"], "203.0.113.7"),
        # What the client made up stands further to the left.
        ("192.168.1.2", ["1.1.1.1, 203.0.113.7, 10.10.128.5"], "203.0.113.7"),
        ("192.168.1.2", ["not-an-address"], "192.168.1.2"),
        ("192.168.1.2", ["10.10.0.9"], "10.10.0.9"),
        ("192.168.1.2", [""], "192.168.1.2"),
        # A home changes its address within its /64.
        ("192.168.1.2", ["2001:db8:1:2:aaaa::1"], "2001:db8:1:2::/64"),
        ("", [], ""),
    ],
)
def test_a_person_is_whom_the_last_trusted_proxy_saw(
    peer: str, forwarded: list[str], client: str
) -> None:
    """Each proxy appends whom it was asked by."""
    assert CLUSTER.client_of(peer, forwarded) == client


def test_a_range_that_is_none_is_refused() -> None:
    """With the variable's name."""
    with pytest.raises(SettingInvalid, match="TRUSTED_PROXIES"):
        TrustedProxies(["10.0.0.1/8"])


async def test_persons_behind_one_proxy_have_a_limit_each(
    http: aiohttp.ClientSession, engine: ReplicaServer
) -> None:
    """By address, or by the login that the proxy vouches for."""
    settings: dict[str, Any] = {
        "rate_limit_per_minute": 1,
        "trusted_proxies": ("127.0.0.0/8",),
        "user_header": "X-Forwarded-User",
    }
    by_address = [{"X-Forwarded-For": f"203.0.113.{number}"} for number in (1, 2, 1)]
    by_login = [{"X-Forwarded-User": name, "X-Forwarded-For": "203.0.113.9"} for name in "aba"]
    statuses = []
    async with backend(engine.url, **settings) as url:
        for headers in by_address + by_login:
            asked = {"message": "a", "max_tokens": 1}
            async with http.post(url + "/chat", json=asked, headers=headers) as answer:
                statuses.append(answer.status)

    assert statuses == [200, 200, 429] * 2


async def test_a_login_is_believed_from_a_trusted_proxy_only(
    http: aiohttp.ClientSession, engine: ReplicaServer
) -> None:
    """Else a new name with each request would be a way around the limit."""
    statuses = []
    async with backend(engine.url, rate_limit_per_minute=1, user_header="X-Forwarded-User") as url:
        for name in "ab":
            asked, headers = {"message": "a", "max_tokens": 1}, {"X-Forwarded-User": name}
            async with http.post(url + "/chat", json=asked, headers=headers) as answer:
                statuses.append(answer.status)

    assert statuses == [200, 429]
