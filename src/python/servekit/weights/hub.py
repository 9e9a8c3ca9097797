"""Fetch a repository of the Hugging Face hub into a folder."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
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
        with _translated(repo, self.token, folder):
            snapshot_download(
                repo.repo_id,
                revision=repo.revision,
                local_dir=folder,
                ignore_patterns=list(UNUSED_FILES),
                token=self.token or False,
                endpoint=self.endpoint,
            )

    def size(self, repo: HubRepo) -> int | None:
        """Return the bytes that a fetch would bring; None where the hub does not say.

        Raises:
            WeightsMissing, WeightsUnreachable: as for a fetch.
        """
        with _translated(repo, self.token):
            info = self._api().model_info(
                repo.repo_id, revision=repo.revision, files_metadata=True, token=self.token or False
            )
        sizes = [file.size for file in info.siblings or () if not _is_unused(file.rfilename)]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    def require_access(self, repo: HubRepo) -> None:
        """Check that its files may be read with this token: the listing is open, the files gated.

        Raises:
            WeightsMissing, WeightsUnreachable: as for a fetch.
        """
        with _translated(repo, self.token):
            self._api().auth_check(repo.repo_id, token=self.token or False)

    def _api(self) -> HfApi:
        return HfApi(endpoint=self.endpoint)


def _is_unused(path: str) -> bool:
    # Slashes are nothing special to a pattern, as in the hub's own library.
    return any(fnmatch(path, pattern) for pattern in UNUSED_FILES)


@contextmanager
def _translated(repo: HubRepo, token: str | None, folder: Path | None = None) -> Iterator[None]:
    """Say what the hub's library raises in our words, with what to do about it."""
    try:
        yield
    except GatedRepoError as error:
        raise WeightsMissing(_why_closed(repo, token)) from error
    except RevisionNotFoundError as error:
        raise WeightsMissing(
            f"{repo.repo_id} has no revision {repo.revision!r}; name a branch, tag or commit"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise WeightsMissing(
            f"the hub shows no repository {repo.repo_id!r}; correct the name, or set HF_TOKEN "
            "if it is private"
        ) from error
    except _UNREACHABLE as error:
        if (status := _status_of(error)) in (401, 403):
            raise WeightsMissing(_why_refused(repo, token, status)) from error
        raise WeightsUnreachable(_why(repo, folder, error)) from error


# RuntimeError is what the hub's own transfer (hf_xet) raises, a full disk included.
_UNREACHABLE = (HfHubHTTPError, LocalEntryNotFoundError, OSError, RuntimeError)


def _why_closed(repo: HubRepo, token: str | None) -> str:
    """Gated: the hub says so to who has no token, and to who has not accepted the licence."""
    if not token:
        return (
            f"{repo.repo_id} is gated, and no HF_TOKEN was given; accept its licence on the hub, "
            "and set HF_TOKEN to a token of that account"
        )
    return (
        f"{repo.repo_id} is gated, and the account of this HF_TOKEN has not accepted its licence; "
        "accept it on the hub, and wait until access is granted"
    )


def _why_refused(repo: HubRepo, token: str | None, status: int) -> str:
    if not token:
        return f"the hub refuses {repo.repo_id} without a token ({status}); set HF_TOKEN"
    if status == 401:
        return (
            f"the hub does not know this HF_TOKEN (401, for {repo.repo_id}): it is mistyped, "
            "revoked or expired; make another one in the hub's settings"
        )
    return (
        f"this HF_TOKEN may not read {repo.repo_id} (403); give it read access to gated "
        "repositories, or use a token of the type 'read'"
    )


def _status_of(error: BaseException | None) -> int | None:
    """The hub's answer below *error*: its library wraps some of them twice."""
    while error is not None:
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            return int(error.response.status_code)
        error = error.__cause__
    return None


def _why(repo: HubRepo, folder: Path | None, error: Exception) -> str:
    no_room = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    if no_room or "No space left" in str(error):
        return (
            f"{repo.repo_id} could not be kept: no space is left on the disk of {folder}; make "
            "room, and start again: what came is kept"
        )
    return (
        f"{repo.repo_id} could not be fetched: {_first_line(error)}; start again: what came is kept"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
