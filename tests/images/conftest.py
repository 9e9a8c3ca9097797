"""The table that the docker suite ends with: size of each image, seconds to start and to stop."""

import pytest

TABLE = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = [f"{'image':<16}{'MB':>6}{'start s':>9}{'stop s':>8}"]


@pytest.fixture(scope="session")
def table(pytestconfig: pytest.Config) -> list[str]:
    """Lines; a test appends its own."""
    return pytestconfig.stash[TABLE]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    lines = config.stash[TABLE]
    if len(lines) > 1:
        terminalreporter.section("images")
        for line in lines:
            terminalreporter.line(line)
