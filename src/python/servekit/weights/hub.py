"""Fetch a repository of the Hugging Face hub into a folder."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from servekit.errors.tree import WeightsMissing, WeightsUnreachable
from servekit.weights.source import HubRepo

# Copies of the same weights in formats that vLLM does not load, and Meta's own checkpoints.
UNUSED_FILES = ("*.gguf", "*.h5", "*.msgpack", "*.ot", "*.onnx", "original/*")


@dataclass(frozen=True, slots=True)
class HubDownload:
    """Fetches repositories, going on where an earlier attempt ended.

    Attributes:
        token: for gated and private repositories.
        endpoint: the hub's address; None for the public one.
    """

    token: str | None = None
    endpoint: str | None = None

    def __call__(self, repo: HubRepo, folder: Path) -> None:
        """Return once every file of *repo* but the unused ones is in *folder*.

        Raises:
            WeightsMissing: the hub has no such repository or revision, or hides it from us.
            WeightsUnreachable: it could not be brought.
        """
        try:
            snapshot_download(
                repo.repo_id,
                revision=repo.revision,
                local_dir=folder,
                ignore_patterns=list(UNUSED_FILES),
                token=self.token or False,
                endpoint=self.endpoint,
            )
        except GatedRepoError as error:
            raise WeightsMissing(
                f"{repo.repo_id} is gated; accept its licence on the hub, and set HF_TOKEN to a "
                "token of that account"
            ) from error
        except RevisionNotFoundError as error:
            raise WeightsMissing(
                f"{repo.repo_id} has no revision {repo.revision!r}; name a branch, tag or commit"
            ) from error
        except (RepositoryNotFoundError, HFValidationError) as error:
            raise WeightsMissing(
                f"the hub shows no repository {repo.repo_id!r}; correct the name, or set HF_TOKEN "
                "if it is private"
            ) from error
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise WeightsUnreachable(
                f"{repo.repo_id} could not be fetched: {_first_line(error)}; start again: what "
                "came is kept"
            ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
