"""The forms in which Cog hands weights to `setup`."""

import io

import pytest
from cog import Path, URLFile, URLPath

from cog_predictor.service.given_weights import weights_text
from servekit.errors.tree import WeightsMissing

# Nobody listens there: to open it would fail.
URL = "http://127.0.0.1:9/model.tar?sig=1"


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (URL, URL),
        (URLFile(URL), URL),
        (URLPath(source=URL, filename="model.tar", fileobj=io.BytesIO()), URL),
        (Path("/models/llama"), "/models/llama"),
        ("org/name", "org/name"),
    ],
    ids=["str", "URLFile", "URLPath", "Path", "hub id"],
)
def test_every_form_is_read_without_opening_it(weights: object, expected: str) -> None:
    """A URL stays a URL: whether it is fetched is decided elsewhere."""
    assert weights_text(weights) == expected


@pytest.mark.parametrize("weights", [None, ""])
def test_no_weights_are_told(weights: object) -> None:
    """The remedy is in the message."""
    with pytest.raises(WeightsMissing, match="set COG_WEIGHTS"):
        weights_text(weights)
