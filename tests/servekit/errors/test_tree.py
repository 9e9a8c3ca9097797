"""The tree of errors is what its docstring draws."""

import re

import pytest

from servekit.errors import tree


def _classes() -> list[type[tree.ServeError]]:
    return [value for value in vars(tree).values() if isinstance(value, type)]


def test_docstring_draws_every_error() -> None:
    """No error is missing from the drawing, and none is drawn that does not exist."""
    drawn = set(re.findall(r"^ +([A-Z]\w+)", tree.__doc__ or "", flags=re.MULTILINE))

    assert drawn == {error.__name__ for error in _classes()}


@pytest.mark.parametrize("error", _classes(), ids=lambda error: error.__name__)
def test_every_error_says_who_must_act(error: type[tree.ServeError]) -> None:
    """Every error below the root belongs to one of the three branches."""
    branches = (tree.ConfigError, tree.RequestError, tree.EngineError)

    assert error is tree.ServeError or sum(issubclass(error, branch) for branch in branches) == 1


def test_refusal_carries_its_status() -> None:
    """A caller can pass the engine's status on without reading the message."""
    error = tree.EngineRefused("the engine answered 429", status=429)

    assert (error.status, str(error)) == (429, "the engine answered 429")
