"""What the docker suite shows of the environments in the end."""

import pytest

TABLE = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = []


@pytest.fixture
def table(pytestconfig: pytest.Config) -> list[str]:
    """Lines; a test appends its own.  A test that is run again starts anew."""
    pytestconfig.stash[TABLE].clear()
    return pytestconfig.stash[TABLE]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    lines = config.stash[TABLE]
    if lines:
        terminalreporter.section("environments")
        for line in lines:
            terminalreporter.line(line)
