"""Options and variables become one plan; former names of options are still accepted."""

from typing import Any

import pytest

from loadbalancer.balancing.session_sources import SessionSources
from loadbalancer.plan import Plan, named_replicas
from loadbalancer.program import balancer_app
from servekit.cli.app import command_line
from servekit.errors.tree import SettingInvalid


def planned(*options: str) -> Plan:
    """Return the plan of a command line, without running it."""
    plans: list[Plan] = []
    app = balancer_app(port=8081, policy="latency", what="", run=plans.append)
    command_line(app)(["--endpoints", "http://h:1", *options], standalone_mode=False)
    return plans[0]


@pytest.mark.parametrize(
    ("former", "current", "value"),
    [
        ("--most-in-flight", "--max-in-flight", "7"),
        ("--answer-timeout-s", "--upstream-read-timeout-s", "12.5"),
        ("--drain-s", "--drain-timeout-s", "3"),
        ("--shadow", "--shadow-policy", "queue"),
    ],
)
def test_former_option_does_what_the_current_one_does(
    capsys: pytest.CaptureFixture[str], former: str, current: str, value: str
) -> None:
    """And is not shown in the help."""
    old, new = (planned(name, value) for name in (former, current))
    unset = planned()
    app = balancer_app(port=8081, policy="latency", what="")
    command_line(app)(["--help"], standalone_mode=False)
    shown = capsys.readouterr().out

    assert old == new
    assert old != unset
    assert current in shown
    assert former not in shown.split()


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        (("--max-body", "3"), "max_body_bytes", 3 * 1024 * 1024),
        (("--max-body-memory", "5"), "max_body_memory_bytes", 5 * 1024 * 1024),
        (("--policy", "p2c"), "policy", "p2c"),
        ((), "policy", "latency"),
        (("--no-policy-header",), "policy_header", False),
        (
            ("--cors-origins", "https://a.b, http://c:1/"),
            "cors_origins",
            ("https://a.b", "http://c:1"),
        ),
        (("--extra-paths", "/v1/x,/y"), "extra_paths", ("/v1/x", "/y")),
        (("--session-affinity", "off"), "sessions", None),
        ((), "sessions", SessionSources()),
        (
            ("--session-affinity", "header:X-Chat, user"),
            "sessions",
            SessionSources((b"x-chat",), (), ("user",)),
        ),
    ],
)
def test_option_reaches_the_rules(options: tuple[str, ...], field: str, value: Any) -> None:
    """Sizes are given in MiB; a program has its own default policy."""
    assert getattr(planned(*options).rules, field) == value


@pytest.mark.parametrize(
    "options",
    [
        ("--cors-origins", "a.b"),
        ("--cors-origins", "https://a.b/path"),
        ("--extra-paths", "/v1/../sleep"),
        ("--extra-paths", "v1/x"),
        ("--session-affinity", "session"),
        ("--session-affinity", ""),
    ],
)
def test_option_that_cannot_be_is_refused_at_the_start(options: tuple[str, ...]) -> None:
    """With its name in the message."""
    with pytest.raises(SettingInvalid, match=options[0]):
        planned(*options)


def test_replicas_are_named_by_their_owner_or_by_where_they_are() -> None:
    """Several behind one host have paths of their own."""
    urls = ("http://h:1/a", "http://h:1/b/v1", "one=http://h:1", "https://h")

    assert named_replicas(urls) == {
        "h:1/a": "http://h:1/a",
        "h:1/b": "http://h:1/b/v1",
        "one": "http://h:1",
        "h:443": "https://h",
    }
    with pytest.raises(SettingInvalid, match="duplicate"):
        named_replicas(("http://h:1/a", "http://h:1/a/"))
