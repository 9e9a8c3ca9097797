"""Pack a repository of the Hugging Face hub into weights for this predictor.

The types are spelled as the parser of `cog build` knows them.
"""

# ruff: noqa: B008, UP045
# mypy: disable-error-code="call-arg"

import os
import tempfile
from pathlib import Path as LocalPath
from typing import Optional

from cog import BaseModel, Input, Path, Secret

from cog_predictor.reporting.error_codes import coded
from cog_predictor.reporting.logs import report
from cog_predictor.service.predictor_config import PredictorConfig
from cog_predictor.service.training import HubFiles, Pack, pack_model, patterns


class TrainingOutput(BaseModel):
    """The archive, for COG_WEIGHTS."""

    weights: Path


def train(
    hf_model_id: str = Input(
        description="Hugging Face model identifier (e.g. NousResearch/Hermes-2-Theta-Llama-3-8B).",
        regex=r"^\w[\w.-]*/\w[\w.-]*$",
    ),
    hf_model_sha: Optional[str] = Input(
        description="The version of the model. If unspecified, the latest version is used.",
        default=None,
    ),
    hf_token: Optional[Secret] = Input(
        description="Hugging Face API token, for gated and private models. Get yours at "
        "https://huggingface.co/settings/tokens",
        default=None,
    ),
    allow_patterns: Optional[str] = Input(
        description="Comma-separated patterns. If provided, only files that match one of them are "
        "packed (e.g. '*.safetensors').",
        default=None,
    ),
    ignore_patterns: str = Input(
        description="Comma-separated patterns. Files that match one of them are not packed.",
        default="*.gguf",
    ),
    prompt_template: Optional[str] = Input(
        description="A Jinja chat template for predictor_config.json, or the name of one of the "
        "predictor's. If not provided, the model's own is used.",
        default=None,
    ),
) -> TrainingOutput:
    """Return model.tar with the repository and a predictor_config.json."""
    pack = Pack(
        repo_id=hf_model_id,
        revision=hf_model_sha,
        allow_patterns=patterns(allow_patterns),
        ignore_patterns=patterns(ignore_patterns),
        config=PredictorConfig(prompt_template=prompt_template, engine_args={}),
    )
    token = hf_token.get_secret_value() if hf_token else None
    hub = HubFiles((token or "").strip() or None, os.environ.get("HF_ENDPOINT"))
    with coded(), tempfile.TemporaryDirectory() as folder:
        target = pack_model(
            pack,
            hub,
            folder=LocalPath(folder),
            target=LocalPath("model.tar"),
            report=report,
        )
    return TrainingOutput(weights=Path(str(target)))
