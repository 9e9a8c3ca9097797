"""What containers share of their environment."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.container.settings import ContainerSettings, read_container_settings
from servekit.errors.tree import SettingInvalid
from servekit.secrets.secret import Secret


class Example(ContainerSettings, frozen=True):
    model_name: str = "acme/tiny-1b"
    hf_home: Path = Path("/model-cache")
    hf_hub_offline: bool = True
    max_num_seqs: int = 8
    gpu_memory_utilization: float = 0.9
    vllm_cache_root: Path | None = None
    startup_timeout_s: float = 570.0
    shutdown_grace_s: float = 10.0


def _read(**environ: str) -> Example:
    return read_container_settings(Example, environ, pytest.fail)


@pytest.mark.parametrize(
    ("said", "meant"),
    [("1", True), ("TRUE", True), ("Yes", True), ("on", True), ("0", False), ("No", False)],
)
def test_switches_are_written_as_people_write_them(said: str, meant: bool) -> None:
    """1 or 0, and the seeds' words for them, in whatever case."""
    settings = _read(HF_HUB_OFFLINE=said, SKIP_PREWARM=said)

    assert (settings.hf_hub_offline, settings.skip_prewarm) == (meant, meant)


def test_engine_is_named_in_words_of_a_shell() -> None:
    """A command may have arguments of its own, and an argument may hold a blank."""
    settings = _read(ENGINE_COMMAND="python3 -m vllm", ENGINE_ARGS="--seed 7 --name 'a b'")

    assert settings.engine_command == ("python3", "-m", "vllm")
    assert settings.engine_args.words == ("--seed", "7", "--name", "a b")


def test_secrets_are_those_that_are_set() -> None:
    """An empty one would mask every letter of the log."""
    assert _read().secrets == ()
    assert _read(HF_TOKEN="hf_x", VLLM_API_KEY="k-1").secrets == (  # noqa: S106
        Secret("hf_x"),
        Secret("k-1"),
    )


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PORT", "http", "PORT is 'http'"),
        ("PORT", "tcp://10.0.0.7:8000", "PORT is 'tcp://10.0.0.7:8000'"),
        ("PORT", "70000", "PORT is 70000; use 1 to 65535, or 0 for a free one"),
        ("PORT", "-1", "PORT is -1; use 1 to 65535, or 0 for a free one"),
        ("HF_HUB_OFFLINE", "perhaps", "HF_HUB_OFFLINE is 'perhaps'; use 1 or 0"),
        ("SKIP_PREWARM", "perhaps", "SKIP_PREWARM is 'perhaps'; use 1 or 0"),
        ("ENGINE_ARGS", "'open", "ENGINE_ARGS: no closing quotation; close the quotes"),
        ("ENGINE_COMMAND", "'open", 'ENGINE_COMMAND is "\'open"'),
        ("SHUTDOWN_GRACE_S", "0", "SHUTDOWN_GRACE_S and STARTUP_TIMEOUT_S are seconds above 0"),
        ("STARTUP_TIMEOUT_S", "-1", "SHUTDOWN_GRACE_S and STARTUP_TIMEOUT_S are seconds above 0"),
    ],
)
def test_bad_value_is_refused_with_what_to_do(name: str, value: str, said: str) -> None:
    """At once: the engine would say so minutes later, or never."""
    with pytest.raises(SettingInvalid) as refused:
        _read(**{name: value})

    assert str(refused.value).startswith(said)


@given(
    environ=st.dictionaries(
        st.sampled_from(["PORT", "HF_HUB_OFFLINE", "ENGINE_ARGS", "SHUTDOWN_GRACE_S"]), st.text()
    )
)
def test_no_environment_raises_anything_else(environ: dict[str, str]) -> None:
    """Whatever the variables hold, the answer is settings that can be used, or SettingInvalid."""
    try:
        settings = _read(**environ)
    except SettingInvalid:
        return

    assert isinstance(settings.hf_hub_offline, bool)
    assert isinstance(settings.engine_args.words, tuple)
