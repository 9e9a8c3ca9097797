"""The call of `vllm serve`, and the environment that it gets."""

import pytest

from kvcached_engine.settings import (
    KVCachedSettings,
    check_name,
    engine_environ,
    read_serving,
)
from kvcached_engine.versions import InstalledVersions
from servekit.errors.tree import SettingInvalid

UNKNOWN = InstalledVersions()


@pytest.mark.parametrize(
    ("arguments", "expected", "port"),
    [
        (("serve", "a/model"), ("a/model",), 8000),
        (("a/model", "--port", "8001"), ("a/model", "--port", "8001"), 8001),
        (("serve", "a/model", "--port=8002"), ("a/model", "--port=8002"), 8002),
        # As the images of an older vLLM were called.
        (("--model", "a/model", "--dtype", "half"), ("a/model", "--dtype", "half"), 8000),
        (("--dtype", "half", "--model", "a/model"), ("a/model", "--dtype", "half"), 8000),
    ],
)
def test_a_call_is_understood(
    arguments: tuple[str, ...], expected: tuple[str, ...], port: int
) -> None:
    """The model comes first, as today's `vllm serve` wants it."""
    serving = read_serving(arguments)

    assert (serving.arguments, serving.port) == (expected, port)


@pytest.mark.parametrize("arguments", [("serve",), ("serve", "--dtype", "half"), ("--model",)])
def test_a_call_without_model_is_refused(arguments: tuple[str, ...]) -> None:
    """Before vLLM is imported for half a minute."""
    with pytest.raises(SettingInvalid, match="no model is named"):
        read_serving(arguments)


def test_a_port_that_is_no_number_is_refused() -> None:
    """We would wait for an engine where there is none."""
    with pytest.raises(SettingInvalid, match="--port is 'http'"):
        read_serving(("serve", "a/model", "--port", "http"))


@pytest.mark.parametrize("name", ["", "a/b", "über", "x" * 65])
def test_a_name_that_kvcached_would_change_is_refused(name: str) -> None:
    """It would keep its usage under another one."""
    with pytest.raises(SettingInvalid, match="KVCACHED_IPC_NAME"):
        check_name(name)


@pytest.mark.parametrize("enabled", [True, False])
def test_kvcached_is_on_or_off(enabled: bool) -> None:
    """Enabled without its patches it has no part in anything, and nobody says so."""
    settings = KVCachedSettings(enable_kvcached=enabled, kvcached_ipc_name="mine")

    environ = engine_environ({"KVCACHED_AUTOPATCH": "?", "HF_TOKEN": "kept"}, settings, UNKNOWN)

    assert environ["ENABLE_KVCACHED"] == environ["KVCACHED_AUTOPATCH"] == str(enabled).lower()
    assert (environ["KVCACHED_IPC_NAME"], environ["HF_TOKEN"]) == ("mine", "kept")
