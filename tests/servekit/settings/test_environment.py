"""Environment variables as typed settings."""

from pathlib import Path
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.errors.tree import SettingInvalid
from servekit.secrets.secret import Secret
from servekit.settings.environment import Settings, ShellWords, read_settings


class Example(Settings, frozen=True):
    retired: ClassVar = {"OLD_PORT": "PORT"}

    port: int = 8080
    interval_s: float = 0.2
    endpoints: tuple[str, ...] = ()
    offline: bool = False


class Guarded(Settings, frozen=True):
    port: int = 8080
    api_key: Secret = Secret()


class Needy(Settings, frozen=True):
    token: str


def _read(environ: dict[str, str]) -> tuple[Example, list[str]]:
    warnings: list[str] = []
    return read_settings(Example, environ, warnings.append), warnings


def test_defaults_hold_where_nothing_is_set() -> None:
    """An empty environment, and an empty variable, leave the defaults."""
    assert _read({}) == (Example(), [])
    assert _read({"PORT": ""}) == (Example(), [])


def test_values_are_typed() -> None:
    """A variable becomes what its field says it is; a tuple is written with commas."""
    settings, _ = _read(
        {"PORT": "80", "INTERVAL_S": "1", "ENDPOINTS": "http://a, http://b,", "OFFLINE": "1"}
    )

    assert settings == Example(
        port=80, interval_s=1.0, endpoints=("http://a", "http://b"), offline=True
    )


class Typed(Settings, frozen=True):
    retired: ClassVar = {"OLD_DEVICE": "DEVICE"}
    shared: ClassVar = frozenset({"FOLDER"})

    command: ShellWords = ("vllm",)
    folder: Path | None = None
    device: Literal["auto", "cpu"] = "auto"
    offline: bool = False


def test_types_are_what_a_program_needs_and_not_text() -> None:
    """A command in words of a shell, a folder as a path, a switch in people's words."""
    settings = read_settings(
        Typed,
        {"COMMAND": "a 'b c'", "FOLDER": "/x", "DEVICE": "cpu", "OFFLINE": "Yes"},
        pytest.fail,
    )

    assert settings == Typed(command=("a", "b c"), folder=Path("/x"), device="cpu", offline=True)
    assert read_settings(Typed, {}, pytest.fail) == Typed()


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"OFFLINE": "maybe"}, "OFFLINE is 'maybe'; use 1 or 0"),
        ({"DEVICE": "tpu"}, "DEVICE is 'tpu'; use auto, cpu"),
        ({"COMMAND": "'a"}, 'COMMAND is "\'a": No closing quotation; close the quotes'),
    ],
)
def test_choice_is_refused_with_what_there_is(environ: dict[str, str], said: str) -> None:
    """The values that would do stand in the message."""
    with pytest.raises(SettingInvalid) as refused:
        read_settings(Typed, environ, pytest.fail)

    assert str(refused.value) == said


def test_private_variables_are_those_that_no_child_reads() -> None:
    """By the fields, and by the names that were theirs; a list by hand drifts."""
    assert Typed.private_variables() == {"COMMAND", "DEVICE", "OLD_DEVICE", "OFFLINE"}


@pytest.mark.parametrize(("name", "value"), [("PORT", "http"), ("INTERVAL_S", "1s")])
def test_bad_value_names_variable_and_value(name: str, value: str) -> None:
    """The error says which variable, what it holds and what to do."""
    with pytest.raises(SettingInvalid, match=rf"{name} is '{value}': .*; correct or unset it"):
        _read({name: value})


def test_required_variable_is_asked_for() -> None:
    """A variable without a default has to be there."""
    with pytest.raises(SettingInvalid, match="TOKEN is not set"):
        read_settings(Needy, {}, print)


def test_retired_name_works_and_warns() -> None:
    """An old deployment goes on working, and learns the new name."""
    settings, warnings = _read({"OLD_PORT": "81"})

    assert settings.port == 81
    assert warnings == ["OLD_PORT is retired; set PORT instead"]


def test_new_name_wins_over_retired_one() -> None:
    """Who set both meant the new one."""
    settings, _ = _read({"OLD_PORT": "81", "PORT": "82"})

    assert settings.port == 82


@given(environ=st.dictionaries(st.sampled_from(["PORT", "INTERVAL_S", "OFFLINE"]), st.text()))
def test_no_environment_raises_anything_else(environ: dict[str, str]) -> None:
    """Whatever the variables hold, the answer is settings or SettingInvalid."""
    try:
        _read(environ)
    except SettingInvalid as error:
        assert "\n" not in str(error)


def test_a_secret_is_read_and_not_shown() -> None:
    """Neither the settings nor an error about another variable show it."""
    settings = read_settings(Guarded, {"API_KEY": "canary"}, print)

    assert settings.api_key.reveal() == "canary"
    assert "canary" not in repr(settings)
    assert not read_settings(Guarded, {"API_KEY": ""}, print).api_key
    with pytest.raises(SettingInvalid) as refusal:
        read_settings(Guarded, {"API_KEY": "canary", "PORT": "x"}, print)
    assert "canary" not in str(refusal.value)
