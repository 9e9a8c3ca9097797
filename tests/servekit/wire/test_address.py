"""URLs of engines and load balancers."""

import pytest

from servekit.errors.tree import SettingInvalid
from servekit.wire.address import read_address


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://localhost:8000/v1/", "http://localhost:8000"),
        ("https://host", "https://host:443"),
        ("http://host/engine/v1", "http://host:80/engine"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_an_address_is_read_with_or_without_its_version(url: str, expected: str) -> None:
    """The port is that of the scheme where none is named; what stands before /v1 stays."""
    assert read_address(url).url == expected


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://x", "http://", "http://x:99999", ""])
def test_a_url_that_cannot_be_requested_is_refused(url: str) -> None:
    """The message repeats the URL and shows how one is written."""
    with pytest.raises(SettingInvalid, match="write http://host:port"):
        read_address(url)
