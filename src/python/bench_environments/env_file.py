"""The `.env` of an environment.  Reads it."""

from collections.abc import Mapping
from pathlib import Path

from bench_environments.deployment import FleetDeployment
from bench_environments.engines import needs_token
from servekit.errors.tree import SettingInvalid


def check_env_file(
    path: Path, deployment: FleetDeployment, environ: Mapping[str, str]
) -> Path | None:
    """Return *path*, or None where there is no such file and nothing in it is needed.

    Raises:
        SettingInvalid: models are to be downloaded, and there is no file or no token.
    """
    wanted = needs_token(deployment) and not environ.get("HF_TOKEN")
    if not path.is_file():
        if wanted:
            raise SettingInvalid(
                f"{path} does not exist; create it with: cp {path.parent}/.env.example {path}, and "
                "set HF_TOKEN in it"
            )
        return None
    if wanted and not read_variables(path).get("HF_TOKEN"):
        raise SettingInvalid(
            f"{path}: HF_TOKEN is not set; Llama, Mixtral and Mistral need the token of an account "
            "that accepted their terms: huggingface.co/settings/tokens"
        )
    return path


def read_variables(path: Path) -> dict[str, str]:
    """Return the NAME=value lines of a file as Compose reads them."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SettingInvalid(f"{path}: cannot be read: {error}; write NAME=value lines") from error
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("'\"") for name, _, value in pairs}
