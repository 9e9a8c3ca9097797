"""The model's snapshot on this disk, in the layout of the Hugging Face cache.

$HF_HOME/hub/models--ORG--NAME/refs/REVISION       the commit that a name stands for
$HF_HOME/hub/models--ORG--NAME/snapshots/COMMIT/   its files
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servekit.errors.tree import SettingInvalid, WeightsMissing
from servekit.secrets.masking import masked
from servekit.secrets.urls import public_url
from servekit.weights.model_folder import require_model

_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model's config.json says that decides how it is served.

    Attributes:
        family: its `model_type`.
        max_model_len: positions that it was trained for (tokens).
        vocab_size: token ids run from 0 up to this.
    """

    family: str | None = None
    max_model_len: int | None = None
    vocab_size: int | None = None


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A whole model on this disk.

    Attributes:
        name: as it was asked for.
        folder: what the engine is given.
        revision: the commit; empty for a folder that is no snapshot.
    """

    name: str
    folder: Path
    revision: str
    facts: ModelFacts

    @property
    def served_names(self) -> tuple[str, ...]:
        """The full name and, if that is another, its last part."""
        short = self.name.rstrip("/").rpartition("/")[2]
        return (self.name, short) if short and short != self.name else (self.name,)


def find_model(name: str, revision: str, hf_home: Path) -> LocalModel:
    """Return the whole model called *name*, a hub id or a folder.

    Raises:
        WeightsMissing: it is not here.
        WeightsRefused: it is here, but cut.
    """
    folder = Path(name) if name.startswith("/") else find_snapshot(name, revision, hf_home)
    if not folder.is_dir():
        raise WeightsMissing(f"the model folder {name!r} does not exist; correct MODEL_NAME")
    require_model(folder)
    commit = folder.name if folder.parent.name == "snapshots" else ""
    return LocalModel(name, folder, commit, read_facts(folder / "config.json"))


def find_snapshot(name: str, revision: str, hf_home: Path) -> Path:
    """Return the snapshot of *name* at *revision*; at `main`, or the only one, if that is empty.

    Raises:
        SettingInvalid: the name is none of the hub's.
        WeightsMissing: there is none.
    """
    if not _HUB_ID.fullmatch(name):
        shown = masked(public_url(name))
        raise SettingInvalid(f"MODEL_NAME is {shown!r}; write org/name, or a folder from the root")
    for repo in repo_folders(name, hf_home):
        found = _snapshot(repo, revision)
        if found is not None:
            return found
    at = f" at {revision!r}" if revision else ""
    raise WeightsMissing(
        f"{name}{at} is not in {hf_home}; build the image with it, or set HF_HUB_OFFLINE=0 to "
        "fetch it at start"
    )


def repo_folders(name: str, hf_home: Path) -> tuple[Path, ...]:
    """Return where the hub's library keeps *name*: today's place first, then that of the seed."""
    folder = "models--" + name.replace("/", "--")
    return (hf_home / "hub" / folder, hf_home / folder)


def _snapshot(repo: Path, revision: str) -> Path | None:
    snapshots = repo / "snapshots"
    if not snapshots.is_dir():
        return None
    commit = _read_ref(repo, revision or "main") or revision
    if commit and (snapshots / commit).is_dir():
        return snapshots / commit
    every = [path for path in snapshots.iterdir() if path.is_dir()]
    return every[0] if not revision and len(every) == 1 else None


def _read_ref(repo: Path, revision: str) -> str | None:
    try:
        return (repo / "refs" / revision).read_text().strip()
    except OSError:
        return None


def read_facts(config: Path) -> ModelFacts:
    """Return what *config* says; a fact it does not state is None."""
    try:
        said = json.loads(config.read_bytes())
    except (OSError, ValueError):
        return ModelFacts()
    if not isinstance(said, dict):
        return ModelFacts()
    # Models that see images keep the language model's numbers one level down.
    text = said.get("text_config")
    numbers = {**said, **text} if isinstance(text, dict) else said
    return ModelFacts(
        family=_text(said.get("model_type")),
        max_model_len=_count(numbers.get("max_position_embeddings")),
        vocab_size=_count(numbers.get("vocab_size")),
    )


def require_length(asked: int | None, model: LocalModel) -> None:
    """Check MAX_MODEL_LEN against the model.

    Raises:
        SettingInvalid: it is longer than the model can be served.
    """
    longest = model.facts.max_model_len
    if asked is not None and longest is not None and asked > longest:
        raise SettingInvalid(
            f"MAX_MODEL_LEN is {asked}, and {model.name} has {longest} positions; lower it or "
            "unset it"
        )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
