"""What holds for every test: the same examples in every run; slow suites only when asked for."""

import os

import pytest
from hypothesis import HealthCheck, core, is_hypothesis_test, settings

settings.register_profile(
    "servekit",
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
# Other examples in every round, by the seed that build-support/ci/explore gives.
EXPLORE = os.environ.get("SERVEKIT_EXPLORE", "")
EXPLORE_TIMEOUT_S = 900
settings.register_profile(
    "explore",
    settings.get_profile("servekit"),
    derandomize=False,
    max_examples=1000,
    print_blob=True,
)
settings.load_profile("explore" if EXPLORE else "servekit")

# A test that is marked with one of these runs when SERVEKIT_SUITES names it (commas between).
SLOW_SUITES = {
    "empty_cache": "brings what .ci/run brings, into an empty cache",
    "slow": "runs Pants, the launcher or Prometheus",
    "real_engine": "runs vLLM on the CPU",
    "docker": "builds and starts images",
    "browser": "opens pages in a browser",
    "gpu": "needs a GPU",
}
# Engines, containers and browsers depend on how busy the machine is: what fails there is run once
# more, and the report says that it was (build-support/ci/count).
RUN_AGAIN = ("real_engine", "docker", "browser")


def pytest_configure(config: pytest.Config) -> None:
    if EXPLORE:
        # As the command line's --hypothesis-seed.
        core.global_force_seed = int(EXPLORE)  # type: ignore[assignment]
    for suite, why in SLOW_SUITES.items():
        config.addinivalue_line("markers", f"{suite}: {why}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if EXPLORE:
        items[:] = [item for item in items if is_hypothesis_test(getattr(item, "obj", None))]
        for item in items:
            item.add_marker(pytest.mark.timeout(EXPLORE_TIMEOUT_S))
    asked_for = os.environ.get("SERVEKIT_SUITES", "").split(",")
    for item in items:
        for suite in SLOW_SUITES:
            if item.get_closest_marker(suite) and suite not in asked_for:
                command = f"SERVEKIT_SUITES={suite} ./pants --tag={suite} test ::"
                item.add_marker(pytest.mark.skip(reason=f"suite {suite}: {command}"))
        if any(item.get_closest_marker(suite) for suite in RUN_AGAIN):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    runs = getattr(item, "execution_count", 1)
    if runs > 1:
        item.user_properties.append(("runs", runs))
