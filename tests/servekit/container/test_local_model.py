"""The model on this disk."""

import json
from pathlib import Path

import pytest

from servekit.container.local_model import (
    LocalModel,
    ModelFacts,
    find_model,
    read_facts,
    require_length,
)
from servekit.errors.tree import ConfigError, SettingInvalid, WeightsMissing
from tests.support.container_program import COMMIT, MODEL, write_snapshot

OTHER = "f" * 40


def test_snapshot_is_found_by_branch_and_by_commit(tmp_path: Path) -> None:
    """`main` where nothing is asked for."""
    folder = write_snapshot(tmp_path)

    for revision in ("", "main", COMMIT):
        assert find_model(MODEL, revision, tmp_path).folder == folder
    assert find_model(MODEL, "", tmp_path).revision == COMMIT


def test_snapshot_in_the_seeds_place_is_found(tmp_path: Path) -> None:
    """$HF_HOME/models--…, without `hub`."""
    write_snapshot(tmp_path)
    (tmp_path / "hub" / "models--acme--tiny-1b").rename(tmp_path / "models--acme--tiny-1b")

    assert find_model(MODEL, "", tmp_path).revision == COMMIT


def test_revision_that_is_not_here_is_missing(tmp_path: Path) -> None:
    """Another one is not served in its place."""
    write_snapshot(tmp_path)

    with pytest.raises(WeightsMissing, match="at 'v2' is not in"):
        find_model(MODEL, "v2", tmp_path)


def test_of_two_snapshots_none_is_guessed(tmp_path: Path) -> None:
    """Without a reference nothing says which is meant."""
    write_snapshot(tmp_path)
    write_snapshot(tmp_path, commit=OTHER)
    (tmp_path / "hub/models--acme--tiny-1b/refs/main").unlink()

    with pytest.raises(WeightsMissing):
        find_model(MODEL, "", tmp_path)
    assert find_model(MODEL, OTHER, tmp_path).revision == OTHER


@pytest.mark.parametrize("name", ["../../etc", "a/b/c", "", "a b", "-x/y"])
def test_name_that_is_no_hub_id_is_refused(name: str, tmp_path: Path) -> None:
    """It would become a path."""
    with pytest.raises(ConfigError):
        find_model(name, "", tmp_path)


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("google/gemma-3-1b-it", ("google/gemma-3-1b-it", "gemma-3-1b-it")),
        ("gpt2", ("gpt2",)),
        ("/models/tiny", ("/models/tiny", "tiny")),
    ],
)
def test_model_is_served_under_both_names(name: str, served: tuple[str, ...]) -> None:
    """The full one first: it is the one that answers carry."""
    assert LocalModel(name, Path("/x"), "", ModelFacts()).served_names == served


@pytest.mark.parametrize(
    ("config", "facts"),
    [
        (
            {"model_type": "llama", "max_position_embeddings": 4096, "vocab_size": 384},
            ModelFacts("llama", 4096, 384),
        ),
        (
            {"model_type": "gemma3", "text_config": {"max_position_embeddings": 9}},
            ModelFacts("gemma3", 9, None),
        ),
        ({}, ModelFacts()),
        ([], ModelFacts()),
        ({"model_type": 3, "vocab_size": "many"}, ModelFacts()),
    ],
)
def test_facts_are_what_the_configuration_says(
    config: object, facts: ModelFacts, tmp_path: Path
) -> None:
    """And None where it does not; a model that sees keeps its numbers one level down."""
    (tmp_path / "config.json").write_text(json.dumps(config))

    assert read_facts(tmp_path / "config.json") == facts


def test_unknown_length_is_not_refused() -> None:
    """vLLM knows better than a configuration that says nothing."""
    require_length(10**6, LocalModel("m", Path("/x"), "", ModelFacts()))
    with pytest.raises(SettingInvalid, match="MAX_MODEL_LEN is 10"):
        require_length(10, LocalModel("m", Path("/x"), "", ModelFacts(max_model_len=9)))
