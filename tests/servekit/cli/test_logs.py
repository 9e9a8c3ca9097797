"""Log levels: as people write them."""

import os
import sys

import pytest

from servekit.cli.logs import announce, level_number
from servekit.errors.tree import SettingInvalid


@pytest.mark.parametrize("level", ["warning", "WARNING", "Warning"])
def test_level_is_read_in_capitals_or_not(level: str) -> None:
    """Other programs of a deployment want them in capitals."""
    assert level_number(level) == 30


def test_other_word_is_a_setting_to_mend() -> None:
    """With the words that there are."""
    with pytest.raises(SettingInvalid, match="'loud' is unknown; there are: debug, info"):
        level_number("loud")


def test_server_that_nobody_listens_to_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever started it may have gone; its clients have not."""
    reader, writer = os.pipe()
    os.close(reader)

    with os.fdopen(writer, "w") as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        announce("ready")
        announce("done")
        broken.flush()
