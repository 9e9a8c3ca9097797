"""Pack a repository of the hub into a model.tar that COG_WEIGHTS can name.

The archive depends on the files and on nothing else: two people who pack the same commit get the
same bytes, and so the same checksum.
"""

import io
import re
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

import msgspec
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from cog_predictor.service.predictor_config import FILE, PredictorConfig
from servekit.errors.tree import SettingInvalid, WeightsMissing, WeightsUnreachable
from servekit.weights.progress import ProgressReporter

_REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """What to pack.

    Attributes:
        revision: a branch, tag or commit; None for the newest.
        allow_patterns, ignore_patterns: of file names, such as `*.safetensors`; empty for all,
            and for none.
    """

    repo_id: str
    revision: str | None
    allow_patterns: tuple[str, ...]
    ignore_patterns: tuple[str, ...]
    config: PredictorConfig


def patterns(text: str | None) -> tuple[str, ...]:
    """Return the patterns between the commas of *text*."""
    return tuple(item.strip() for item in (text or "").split(",") if item.strip())


@dataclass(frozen=True, slots=True)
class HubFiles:
    """The files of a repository, one after the other.

    Attributes:
        token: for gated and private repositories.
        endpoint: the hub's address; None for the public one.
    """

    token: str | None
    endpoint: str | None = None

    def names(self, pack: Pack) -> tuple[str, list[str]]:
        """Return the commit, and the names of its files.

        Raises:
            WeightsMissing: the hub shows us no such repository or revision.
        """
        try:
            info = HfApi(endpoint=self.endpoint).model_info(
                pack.repo_id, revision=pack.revision, token=self.token or False
            )
        except (HfHubHTTPError, HFValidationError) as error:
            raise WeightsMissing(
                f"the hub shows no {pack.repo_id} at {pack.revision or 'main'}: "
                f"{str(error).splitlines()[0]}; correct the name, or give a token"
            ) from error
        return str(info.sha), [sibling.rfilename for sibling in info.siblings or []]

    def fetch(self, pack: Pack, commit: str, name: str, folder: Path) -> Path:
        """Bring one file into *folder*, and return its path.

        Raises:
            WeightsUnreachable: it did not come.
        """
        try:
            path = hf_hub_download(
                pack.repo_id,
                name,
                revision=commit,
                local_dir=folder,
                token=self.token or False,
                endpoint=self.endpoint,
            )
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise WeightsUnreachable(
                f"{pack.repo_id}: {name} did not come: {str(error).splitlines()[0]}; try again"
            ) from error
        return Path(path)


def pack_model(
    pack: Pack, hub: HubFiles, *, folder: Path, target: Path, report: ProgressReporter
) -> Path:
    """Write *target*, a tar of the repository and its predictor_config.json, and return it.

    *folder* holds one file at a time.

    Raises:
        SettingInvalid: the repository's name is none, or the patterns leave nothing.
        WeightsMissing, WeightsUnreachable: as `HubFiles`.
    """
    if not _REPO.fullmatch(pack.repo_id):
        raise SettingInvalid(f"hf_model_id is {pack.repo_id!r}; write it as org/name")
    commit, names = hub.names(pack)
    chosen = _choose(names, pack)
    report("packing", repo=pack.repo_id, commit=commit, files=len(chosen))
    with target.open("wb") as file:
        config = msgspec.json.encode(pack.config)
        _write_tar(file, chosen, lambda name: hub.fetch(pack, commit, name, folder), config)
    report("packed", bytes=target.stat().st_size)
    return target


def _choose(names: Sequence[str], pack: Pack) -> list[str]:
    # Our own configuration takes the place of one that came along.
    found = sorted(
        name
        for name in names
        if _matches(name, pack.allow_patterns or ("*",))
        and not _matches(name, pack.ignore_patterns)
        and name != FILE
    )
    if not found:
        raise SettingInvalid(
            f"no file of {pack.repo_id} is left; loosen allow_patterns or ignore_patterns"
        )
    return found


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _write_tar(
    file: IO[bytes], names: Sequence[str], fetch: Callable[[str], Path], config: bytes
) -> None:
    # GNU's format holds files beyond 8 GiB and long names, without the dates of an extended header.
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(_member(FILE, len(config)), io.BytesIO(config))
        for name in names:
            path = fetch(name)
            with path.open("rb") as content:
                tar.addfile(_member(name, path.stat().st_size), content)
            path.unlink()


def _member(name: str, size: int) -> tarfile.TarInfo:
    """A member without date, owner or rights of the machine that packs it."""
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o644
    return member
