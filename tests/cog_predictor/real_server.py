"""Cog's own server in the environment of the real vLLM."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import cog
import coglet  # pants: no-infer-dep  # comes with cog
import zstandard

import cog_predictor.service.prediction_service
from tests.cog_predictor.cog_server import CogServer, cog_server, flat_folder
from tests.real_engine.engine import ensure_model
from tests.real_engine.environment import EngineEnvironment

CONFIG = {
    "engine_args": {
        "max_model_len": 2048,
        "max_num_seqs": 32,
        "enforce_eager": True,
        "kv_cache_memory_bytes": 64 * 1024 * 1024,
    }
}


def real_server(
    folder: Path,
    vllm: EngineEnvironment,
    config: Mapping[str, object],
    environ: Mapping[str, str] | None = None,
) -> AbstractAsyncContextManager[CogServer]:
    """The server, in the environment of vLLM with nothing of ours but our code and Cog."""
    flat_folder(folder, config=config, python=str(vllm.python))
    packages = folder / "packages"
    packages.mkdir()
    for package in (cog, coglet, zstandard):
        (packages / package.__name__).symlink_to(Path(str(package.__file__)).parent)
    ours = Path(cog_predictor.service.prediction_service.__file__).parents[2]
    variables = {
        "PYTHONPATH": f"{ours}:{packages}",
        "PATH": f"{vllm.python.parent}:/usr/bin:/bin",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    return cog_server(
        folder,
        weights=str(ensure_model(vllm, 0)),
        runner="run.py:Runner",
        environ={**variables, **(environ or {})},
        module="cog_predictor.serve",
    )
