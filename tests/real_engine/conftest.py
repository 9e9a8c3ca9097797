"""One start of each engine per session of tests; all of them end with it."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from tests.real_engine.engine import GENERATE, POOLING, Engine, EngineSpec, running_engine
from tests.real_engine.environment import EngineEnvironment, environment_or_skip

ENVIRONMENT = pytest.StashKey[EngineEnvironment]()


@pytest.fixture(scope="session")
def environment(pytestconfig: pytest.Config) -> EngineEnvironment:
    found = pytestconfig.stash[ENVIRONMENT] = environment_or_skip(os.environ)
    return found


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what the engine's environment cost, once, on a machine that had none."""
    if ENVIRONMENT in config.stash:
        found = config.stash[ENVIRONMENT]
        terminalreporter.line(f"the engine's environment, {found.home.name}: {found.how_installed}")


@pytest.fixture(scope="session")
def start(
    environment: EngineEnvironment,
) -> "partial[AbstractContextManager[Engine]]":
    """`with start(spec) as engine`: an engine of the test's own."""
    logs = environment.home / "logs"
    logs.mkdir(exist_ok=True)
    return partial(_start, environment, logs)


def _start(
    environment: EngineEnvironment, logs: Path, spec: EngineSpec
) -> AbstractContextManager[Engine]:
    return running_engine(environment, spec, logs, os.environ)


@pytest.fixture(scope="session")
def engine(start: "partial[AbstractContextManager[Engine]]") -> Iterator[Engine]:
    """A generating engine that all tests share."""
    with start(GENERATE) as running:
        yield running


@pytest.fixture(scope="session")
def second_engine(start: "partial[AbstractContextManager[Engine]]") -> Iterator[Engine]:
    """Another one of the same model, for what is to be balanced."""
    with start(GENERATE) as running:
        yield running


@pytest.fixture(scope="module")
def pooling_engine(start: "partial[AbstractContextManager[Engine]]") -> Iterator[Engine]:
    with start(POOLING) as running:
        yield running
