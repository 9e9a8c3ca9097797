"""The command line of the benchmark: its help, and the former names that still work."""

import re
from typing import Any

import pytest

from bench.cli.options import TrafficOptions, VerdictOptions, read_share
from servekit.errors.tree import SettingInvalid
from tests.support.command_lines import command_line_of

# docs/glossary.md has the terms that stand in their place.
BANNED = re.compile(
    r"\b(whoever|nobody|somebody|likewise|of ours|of its own|stands there|there is only|"
    r"is no share|patience|engines say)\b",
    re.IGNORECASE,
)


def commands() -> dict[str, Any]:
    """Every command by its name; the runner itself is ""."""
    runner = command_line_of("bench.runner")
    return {"": runner, "mock": command_line_of("bench.target.mock_server"), **runner.commands}


def options() -> list[tuple[str, Any]]:
    return [(name, one) for name, command in commands().items() for one in command.params]


@pytest.mark.parametrize(("command", "option"), options(), ids=lambda one: str(one))
def test_every_row_of_the_help_stands_alone(command: str, option: Any) -> None:
    """A sentence for each option, in plain English."""
    if getattr(option, "hidden", False):
        return

    text = option.help or ""

    assert text.endswith("."), (command, option.opts, text)
    assert BANNED.search(text) is None, (command, text)


@pytest.mark.parametrize(("name", "command"), commands().items(), ids=lambda one: str(one))
def test_every_command_says_what_it_does(name: str, command: Any) -> None:
    """The first line is a sentence of its own: the list of commands shows it."""
    first = (command.help or "").strip().splitlines()[0]

    assert first.endswith("."), (name, first)
    assert BANNED.search(command.help) is None


@pytest.mark.parametrize(
    ("command", "old", "new", "value"),
    [
        ("", "--ttft-ms", "--slo-ttft-ms", "7"),
        ("", "--itl-ms", "--slo-tpot-ms", "7"),
        ("", "--e2e-ms", "--slo-e2e-ms", "7"),
        ("compare", "--timeout-s", "--request-timeout-s", "7"),
        ("search", "--share", "--slo-attainment", "0.7"),
        ("search", "--start", "--start-rate", "7"),
        ("search", "--trials", "--max-trials", "7"),
        ("self-comparison", "--slow", "--slowdown", "7"),
        ("simulate", "--requests", "--max-requests", "7"),
        ("simulate", "--start-s", "--replica-start-s", "7"),
        ("plan", "--most", "--max-replicas", "7"),
        ("plan", "--requests", "--max-requests", "7"),
        ("calibrate-engine", "--utilization", "--gpu-memory-utilization", "0.7"),
        ("calibrate-engine", "--budget", "--max-num-batched-tokens", "7"),
        ("calibrate-engine", "--most", "--max-batch", "7"),
        ("validate-engine", "--within", "--max-error", "0.7"),
    ],
)
def test_a_former_name_of_an_option_works(command: str, old: str, new: str, value: str) -> None:
    """It means what the new name means, and the help does not list it."""
    one = commands()[command]

    def parsed(*argv: str) -> dict[str, Any]:
        return dict(one.make_context("bench", list(argv), resilient_parsing=True).params)

    assert parsed(old, value) == parsed(new, value) != parsed()
    listed = one.get_help(one.make_context("bench", [], resilient_parsing=True))
    assert new in listed
    assert f" {old} " not in listed


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("calibrate", "client-accuracy"),
        ("self-test", "self-comparison"),
        ("beside-aiperf", "client-accuracy-vs-aiperf"),
    ],
)
def test_a_former_name_of_a_command_works(old: str, new: str) -> None:
    """It is the same command, and only the new name is listed."""
    known = commands()

    assert known[old].hidden
    assert not known[new].hidden
    assert [one.opts for one in known[old].params] == [one.opts for one in known[new].params]
    assert known[old].callback.__wrapped__ is known[new].callback.__wrapped__


def test_until_sure_takes_as_many_turns_as_there_is_time_for() -> None:
    """Ten minutes for two arms: 300 s each, 16 s of them for the first turn and 3 s for others."""
    load = TrafficOptions()

    plain = load.shape(VerdictOptions())
    sure = load.shape(VerdictOptions(until_sure=True, max_minutes=10.0), drain=True)

    assert (plain.parts, plain.looks, plain.drain) == (load.parts, (), False)
    assert (sure.parts, sure.drain) == (95, True)
    assert sure.looks == (12, 18, 27, 40, 61, 91, 95)
    assert 2 * sum(sure.lengths_s) <= 600.0
    assert load.shape(VerdictOptions(until_sure=True, max_minutes=0.1)).parts == 1


@pytest.mark.parametrize(
    ("text", "share"), [("5%", 0.05), ("0.05", 0.05), ("0", 0.0), ("2.5%", 0.025), (0.1, 0.1)]
)
def test_a_min_effect_is_a_share_or_percent(text: str | float, share: float) -> None:
    """As people write it."""
    assert read_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["5", "-1%", "much", "", "100%", "nan"])
def test_a_min_effect_that_is_no_share_is_refused(text: str) -> None:
    """5 could be meant as 5 %: the remedy is in the message."""
    with pytest.raises(SettingInvalid, match="must be a share below 1"):
        read_share(text)
