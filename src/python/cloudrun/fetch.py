"""Bring a model into the Hugging Face cache, all of it or nothing."""

import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from servekit.container.local_model import LocalModel, find_model, find_snapshot, repo_folders
from servekit.errors.tree import WeightsMissing, WeightsRefused, WeightsUnreachable
from servekit.weights.model_folder import require_model
from servekit.weights.source import HubRepo


class BlockingHub(Protocol):
    """A hub; blocks."""

    def __call__(self, repo: HubRepo, folder: Path, stop: threading.Event | None = None) -> None:
        """As `HubDownload`."""


_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch_model(
    name: str, revision: str, hf_home: Path, fetch: Callable[[HubRepo, Path], None]
) -> LocalModel:
    """Return the model, fetched if it is not here yet.

    It is fetched beside its place, verified, and moved there in one step: whoever looks finds a
    whole snapshot or none.

    Raises:
        WeightsMissing: the hub has no such model, or hides it from us.
        WeightsUnreachable: it could not be brought; what came is kept for the next attempt.
        WeightsRefused: what was brought is no whole model.
    """
    try:
        return find_model(name, revision, hf_home)
    except WeightsMissing:
        if name.startswith("/"):
            raise
    except WeightsRefused:
        # A snapshot that is damaged stays so: it is fetched anew.
        if name.startswith("/"):
            raise
        shutil.rmtree(find_snapshot(name, revision, hf_home), ignore_errors=True)
    repo = repo_folders(name, hf_home)[0]
    partial = repo / ".partial" / (revision or "main").replace("/", "--")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        fetch(HubRepo(name, revision or "main"), partial)
        require_model(partial)
        _publish(repo, partial, revision or "main")
    except OSError as error:
        raise WeightsUnreachable(
            f"{name} could not be kept in {hf_home}: {error.strerror or error}; make room, and "
            "start again"
        ) from error
    return find_model(name, revision, hf_home)


def _publish(repo: Path, partial: Path, revision: str) -> None:
    commit = _commit_of(partial, revision)
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    place = repo / "snapshots" / commit
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        partial.rename(place)
    if revision != commit:
        ref = repo / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        fresh = ref.with_name(f".{ref.name}.{os.getpid()}")
        fresh.write_text(commit)
        fresh.replace(ref)


def _commit_of(folder: Path, revision: str) -> str:
    """The commit that was fetched: the hub's library notes it in the first line per file."""
    for note in sorted((folder / ".cache/huggingface/download").rglob("*.metadata")):
        commit = note.read_text().partition("\n")[0].strip()
        if _COMMIT.fullmatch(commit):
            return commit
    return revision.replace("/", "--")
