"""Flags that vLLM no longer takes."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.engine.retired_flags import RETIRED_FLAGS, translate_retired

HELP = (Path(__file__).parents[2] / "golden/vllm/serve_help_v0.32.0.txt").read_text()
KNOWN_FLAGS = frozenset(re.findall(r"--[a-z][a-z0-9-]+", HELP))


def test_retired_flags_are_gone_and_replacements_are_there() -> None:
    """As the captured help says."""
    replacements = {
        word
        for retired in RETIRED_FLAGS.values()
        for words in (retired.instead or {}).values()
        for word in words
        if word.startswith("--")
    }
    named = set(re.findall(r"--[a-z-]+", " ".join(flag.why for flag in RETIRED_FLAGS.values())))

    assert RETIRED_FLAGS.keys() & KNOWN_FLAGS == set()
    assert replacements | named <= KNOWN_FLAGS


@pytest.mark.parametrize(
    ("words", "translated"),
    [
        ("--max-num-seqs 64 --block-size 16 --swap-space 4", "--max-num-seqs 64 --block-size 16"),
        ("--swap_space=4 --seed 7", "--seed 7"),
        ("--task embed", "--runner pooling --convert embed"),
        ("--task=generate --seed 7", "--runner generate --seed 7"),
        ("--task auto", ""),
        ("--disable-log-requests --seed 7", "--seed 7"),
        ("--worker-use-ray", "--distributed-executor-backend ray"),
        ("--swap-space", ""),
    ],
)
def test_old_arguments_become_todays(words: str, translated: str) -> None:
    """One warning for each, which names it; the rest stays in its order."""
    warnings: list[str] = []

    assert translate_retired(words.split(), warnings.append) == tuple(translated.split())
    assert len(warnings) == 1
    assert all(re.search(r"vLLM has no --[a-z-]+ any more: .+; ", line) for line in warnings)


@given(words=st.lists(st.sampled_from(["--seed", "7", "-O2", "x=y", "--max-num-seqs=3", ""])))
def test_other_arguments_are_passed_on(words: list[str]) -> None:
    """Word for word, and nobody is warned."""
    assert translate_retired(words, pytest.fail) == tuple(words)
