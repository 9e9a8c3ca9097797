"""Programs that another one starts as modules."""

import pytest

from servekit.errors.tree import SettingInvalid
from servekit.launch.modules import require_module


def test_a_module_that_is_not_installed_is_named_with_a_remedy() -> None:
    """Without the simulator, the runner still measures what runs elsewhere."""
    with pytest.raises(SettingInvalid, match="nonesuch is not part of this installation; give"):
        require_module("nonesuch.main", "give --url")
