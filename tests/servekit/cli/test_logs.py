"""Log levels: as people write them."""

import pytest

from servekit.cli.logs import level_number
from servekit.errors.tree import SettingInvalid


@pytest.mark.parametrize("level", ["warning", "WARNING", "Warning"])
def test_level_is_read_in_capitals_or_not(level: str) -> None:
    """Other programs of a deployment want them in capitals."""
    assert level_number(level) == 30


def test_other_word_is_a_setting_to_mend() -> None:
    """With the words that there are."""
    with pytest.raises(SettingInvalid, match="'loud' is unknown; there are: debug, info"):
        level_number("loud")
