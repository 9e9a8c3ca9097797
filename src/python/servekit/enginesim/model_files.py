"""Find the shape of a model: in what the fleet file says, a folder, or the cache of the hub.

Reads files.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servekit.enginesim.hardware import ModelShape
from servekit.enginesim.known_models import KNOWN_MODELS
from servekit.enginesim.model_config import shape_of
from servekit.errors.tree import SettingInvalid


def find_shape(
    name: str,
    *,
    weights: str | None = None,
    config: Mapping[str, Any] | str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> ModelShape:
    """Return the shape of the model that clients call *name*.

    Looked for in this order: *config* (the content of a config.json, or its path), the folder
    *weights*, the models known here, a folder called *name*, and the hub's cache.

    Raises:
        SettingInvalid: it is nowhere, cannot be read, or is of a kind that is not simulated.
    """
    if isinstance(config, str):
        return shape_of(_read(_config_path(Path(config))), name)
    if config is not None:
        return shape_of(config, name)
    for source in (weights, name):
        if source is None:
            continue
        folder = _config_path(Path(source))
        if folder.is_file():
            return shape_of(_read(folder), name)
        if source in KNOWN_MODELS:
            return KNOWN_MODELS[source]
        if cached := _in_hub_cache(source, environ):
            return shape_of(_read(cached), name)
    raise SettingInvalid(
        f"model {name!r} is unknown to the simulator; give its config.json in the fleet file "
        "(`config:`, inline or a path), or `weights:` with its folder, or download it into the "
        "Hugging Face cache"
    )


def _config_path(path: Path) -> Path:
    return path if path.suffix == ".json" else path / "config.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingInvalid(f"{path} cannot be read as a config.json: {error}") from error
    if not isinstance(raw, dict):
        raise SettingInvalid(f"{path} is not a config.json: it is not a JSON object")
    return raw


def _in_hub_cache(name: str, environ: Mapping[str, str]) -> Path | None:
    """Return the newest config.json of the hub id *name* (huggingface_hub's cache layout)."""
    home = environ.get("HF_HOME") or f"{environ.get('HOME', '')}/.cache/huggingface"
    cache = Path(environ.get("HF_HUB_CACHE") or f"{home}/hub")
    folder = cache / f"models--{name.replace('/', '--')}" / "snapshots"
    found = sorted(folder.glob("*/config.json"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None
