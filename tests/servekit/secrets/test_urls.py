"""A URL's public part."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.secrets.urls import public_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://user:pw@host/good.tar?sig=S", "http://host/good.tar"),
        ("https://token@host:8443/m.tar#sha256=ab", "https://host:8443/m.tar"),
        ("https://:pw@host/m", "https://host/m"),
        ("https://user:p@ss@host/m", "https://host/m"),
        ("https://user:p/w@host/m?x", "https://host/m"),
        ("https://user:p?w@host/m", "https://host/m"),
        ("https://user:p#w@host/m?x=1", "https://host/m"),
        ("https://user:pw/", "https://***"),
        ("https://[::1]:80/m?sig=1", "https://[::1]:80/m"),
        ("https://u:p@[::1]/m", "https://[::1]/m"),
        ("s3://key:secret@bucket/m/", "s3://bucket/m/"),
        ("https://host/a@b/m.tar", "https://host/a@b/m.tar"),
        ("HTTPS://host/m?x=1\n", "HTTPS://host/m"),
        ("hf://org/name@main", "hf://org/name@main"),
        ("org/name@main", "org/name@main"),
        ("/models/what?is#this", "/models/what?is#this"),
        ("", ""),
    ],
)
def test_user_and_query_are_left_out(url: str, shown: str) -> None:
    """Scheme, host, port and path remain."""
    assert public_url(url) == shown


SAFE = st.text(st.characters(exclude_characters="@"), min_size=1)


@given(user=SAFE, host=st.from_regex(r"[a-z]{1,10}", fullmatch=True), query=SAFE)
def test_no_password_is_shown(user: str, host: str, query: str) -> None:
    """Whatever characters a password has, quoted or not."""
    shown = public_url(f"https://u:canary{user}@{host}/m.tar?sig=canary{query}")

    assert "canary" not in shown


@given(st.text())
def test_any_text_is_taken(text: str) -> None:
    """It never raises, and what it shows is shown the same again."""
    assert public_url(public_url(text)) == public_url(text)
