"""Copies of models on disk.

<store>/<name>/                 a whole model, put there by one rename
<store>/<name>/.complete.json   what was put there; a copy without it is no copy
<store>/.partial/<name>/        what is being fetched, and may be resumed
<store>/.locks/<name>           held by whoever fetches
<checkpoints>/<name>            a link to the copy, where the store is a volume
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from servekit.errors.tree import WeightsRefused
from servekit.weights.model_folder import is_model

MARKER = ".complete.json"


class Marker(msgspec.Struct, frozen=True):
    """What a copy holds.

    Attributes:
        source: where it came from, without secrets; for people.
        files: size in bytes by path.
    """

    source: str
    files: dict[str, int]


@dataclass(frozen=True, slots=True)
class Cache:
    """Where copies are kept.

    Attributes:
        store: the folder that holds them.
        checkpoints: the folder where people look for them; often the store itself.
    """

    store: Path
    checkpoints: Path

    def copy(self, name: str) -> Path:
        return self.store / name

    def partial(self, name: str) -> Path:
        return self.store / ".partial" / name

    def lock(self, name: str) -> Path:
        return self.store / ".locks" / name


def choose_cache(volume: Path, checkpoints: Path) -> Cache:
    """Return a cache on *volume* where it is mounted and may be written, else in *checkpoints*."""
    on_volume = volume.is_dir() and os.access(volume, os.W_OK | os.X_OK)
    return Cache(store=volume if on_volume else checkpoints, checkpoints=checkpoints)


def find_copy(cache: Cache, name: str) -> Path | None:
    """Return the whole copy called *name*, or None.  Asks the disk only, and changes nothing."""
    for folder in (cache.copy(name), cache.checkpoints / name):
        if is_complete(folder):
            return folder
    return None


def find_placed(cache: Cache, readable_name: str) -> Path | None:
    """Return the model that somebody put into *checkpoints* by hand, or None.

    A link is none of ours: cog-vllm pointed every name at one folder of the volume, whichever model
    came last.
    """
    folder = cache.checkpoints / readable_name
    return folder if not folder.is_symlink() and is_model(folder) else None


def is_complete(folder: Path) -> bool:
    """Return whether *folder* has its marker, and every file of it in its size."""
    try:
        marker = msgspec.json.decode((folder / MARKER).read_bytes(), type=Marker)
        return all((folder / path).stat().st_size == size for path, size in marker.files.items())
    except (OSError, ValueError, msgspec.MsgspecError):
        return False


def put_copy(cache: Cache, name: str, model: Path, source: str) -> Path:
    """Move *model*, a folder of the same file system, to its place in one step, and return that.

    For the holder of the lock: a copy that is there, and not whole, is removed.

    Raises:
        WeightsRefused: the model has the cache's own marker among its files.
    """
    marker = model / MARKER
    if marker.exists():
        raise WeightsRefused(f"the archive is refused: {MARKER!r} is a name of the cache")
    files = {
        str(path.relative_to(model)): path.stat().st_size
        for path in sorted(model.rglob("*"))
        if path.is_file()
    }
    marker.write_bytes(msgspec.json.encode(Marker(source, files)))
    place = cache.copy(name)
    remove(place)
    model.rename(place)
    return place


def link_copy(cache: Cache, name: str) -> Path:
    """Return where people find the copy: under *checkpoints*, linked if the store is elsewhere.

    Where *checkpoints* cannot be written, or has something else of that name, that is the store.
    """
    place = cache.copy(name)
    shown = cache.checkpoints / name
    if cache.store == cache.checkpoints or shown.resolve() == place.resolve():
        return shown
    if shown.exists() and not shown.is_symlink():
        return place
    try:
        _link(shown, place)
    except OSError:
        return place
    return shown


def _link(link: Path, place: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(place.resolve(), target_is_directory=True)
    fresh.replace(link)


def remove_dangling_links(folder: Path) -> list[str]:
    """Remove the links in *folder* that lead nowhere, and return their names."""
    if not folder.is_dir():
        return []
    dangling = [path for path in folder.iterdir() if path.is_symlink() and not path.exists()]
    for path in dangling:
        path.unlink(missing_ok=True)
    return sorted(path.name for path in dangling)


def remove(path: Path) -> None:
    """Remove a folder, a file or a link, if there is one."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
