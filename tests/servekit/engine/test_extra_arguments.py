"""ENGINE_ARGS: what is passed on, and which secrets stay here."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.engine.extra_arguments import ExtraArguments
from servekit.errors.tree import SettingInvalid
from servekit.secrets.secret import Secret


@pytest.mark.parametrize(
    ("text", "words", "keys"),
    [
        ("--seed 7 --api-key k1", ("--seed", "7"), ["k1"]),
        ("--api-key=k1 --seed -1", ("--seed", "-1"), ["k1"]),
        ("--api_key k1 k2 -O2", ("-O2",), ["k1", "k2"]),
        ("--api-k k1 --api-server-count 2", ("--api-server-count", "2"), ["k1"]),
        ("--api-ke=k1", (), ["k1"]),
        ("--api-key 'a b' --api-key c", (), ["a b", "c"]),
        ("--hf-token hf_x --seed 7", ("--seed", "7"), []),
        ("--hf_tok=hf_x", (), []),
        ("--hf-overrides '{\"a\": 1}'", ("--hf-overrides", '{"a": 1}'), []),
        ("", (), []),
    ],
)
def test_keys_are_taken_out_however_they_are_written(
    text: str, words: tuple[str, ...], keys: list[str]
) -> None:
    """As vLLM's parser would understand them: cut, with _ or -, one or several."""
    extra = ExtraArguments.from_setting(text)

    assert extra.words == words
    assert extra.api_keys == tuple(Secret(key) for key in keys)


def test_open_quote_is_refused_without_showing_the_text() -> None:
    """It may hold a key."""
    with pytest.raises(SettingInvalid) as refused:
        ExtraArguments.from_setting("--api-key 'k1")

    assert str(refused.value) == "ENGINE_ARGS: no closing quotation; close the quotes"
    assert "k1" not in repr(ExtraArguments(["--api-key", "k1"]))


@given(words=st.lists(st.sampled_from(["--seed", "7", "--api-key", "k", "-O2", "--x=1", "y"])))
def test_no_other_word_is_lost(words: list[str]) -> None:
    """What is no key stays, in its order."""
    kept = ExtraArguments(words).words

    assert "--api-key" not in kept
    flags = [word for word in words if word.startswith("-") and word != "--api-key"]
    assert [word for word in kept if word.startswith("-")] == flags
