"""Copies of models on disk.

<store>/<name>/                 a whole model, put there by one rename
<store>/<name>/.complete.json   what was put there; a copy without it is no copy
<store>/.partial/<name>/        what is being fetched, and is resumed by the next process
<store>/.locks/<name>           held by whoever fetches
<checkpoints>/<name>            a link to the copy, where the store is a volume
"""

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from servekit.errors.tree import WeightsRefused
from servekit.weights.lock import try_lock
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
        read_only: a volume that is looked at, and never written.
        max_bytes: the most that copies take together; None for what the volume holds.  The least
            recently used go first.
    """

    store: Path
    checkpoints: Path
    read_only: Path | None = None
    max_bytes: int | None = None

    def copy(self, name: str) -> Path:
        return self.store / name

    def partial(self, name: str) -> Path:
        return self.store / ".partial" / name

    def lock(self, name: str) -> Path:
        return self.store / ".locks" / name


def choose_cache(volume: Path, checkpoints: Path, max_bytes: int | None = None) -> Cache:
    """Return a cache on *volume* where it is mounted and may be written, else in *checkpoints*.

    A volume that may only be read is still looked at.
    """
    if not volume.is_dir():
        return Cache(checkpoints, checkpoints, max_bytes=max_bytes)
    if os.access(volume, os.W_OK | os.X_OK):
        return Cache(volume, checkpoints, max_bytes=max_bytes)
    return Cache(checkpoints, checkpoints, read_only=volume, max_bytes=max_bytes)


def find_copy(cache: Cache, name: str) -> Path | None:
    """Return the whole copy called *name*, or None.  Asks the disk only, and changes nothing."""
    folders = [cache.copy(name), cache.checkpoints / name]
    if cache.read_only is not None:
        folders.append(cache.read_only / name)
    return next((folder for folder in folders if is_complete(folder)), None)


def touch(copy: Path) -> None:
    """Note that *copy* is used now, where it may be written."""
    with suppress(OSError):
        os.utime(copy / MARKER)


def remove_dead_partials(cache: Cache, name: str) -> list[str]:
    """Remove what dead processes left of other models than *name*, and return their names.

    A partial copy whose lock is held is being fetched.
    """
    folder = cache.store / ".partial"
    if not folder.is_dir():
        return []
    removed = []
    for partial in sorted(folder.iterdir()):
        if partial.name == name:
            continue
        with try_lock(cache.lock(partial.name)) as is_free:
            if is_free:
                with suppress(OSError):
                    remove(partial)
                    removed.append(partial.name)
    return removed


def evict(cache: Cache, name: str, incoming_bytes: int, missing_bytes: int) -> list[str]:
    """Remove the least recently used copies until *incoming_bytes* fit into the bound, and
    *missing_bytes* more of the volume are free.

    Only whole copies that this cache made, that are not *name* and that no process is fetching;
    and none at all where all of them would not be enough.  Returns their names.
    """
    copies = sorted(
        (copy.stat().st_mtime, copy.parent, size)
        for copy in cache.store.glob(f"*/{MARKER}")
        if (size := _size_of(copy.parent)) is not None and copy.parent.name != name
    )
    kept_bytes = sum(size for _, _, size in copies)
    over_bytes = 0
    if cache.max_bytes is not None:
        over_bytes = incoming_bytes + kept_bytes - cache.max_bytes
    to_free = max(over_bytes, missing_bytes)
    if missing_bytes > kept_bytes:
        return []
    removed = []
    for _, folder, size in copies:
        if to_free <= 0:
            break
        with try_lock(cache.lock(folder.name)) as is_free:
            if is_free:
                # Without its marker first, so that a half removed copy is none.
                (folder / MARKER).unlink(missing_ok=True)
                remove(folder)
                removed.append(folder.name)
                to_free -= size
    return removed


def _size_of(folder: Path) -> int | None:
    try:
        marker = msgspec.json.decode((folder / MARKER).read_bytes(), type=Marker)
    except (OSError, msgspec.MsgspecError):
        return None
    return sum(marker.files.values())


def find_placed(cache: Cache, readable_name: str) -> Path | None:
    """Return the model that was put into *checkpoints* by hand, or None.

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


def bytes_on_disk(folder: Path) -> int:
    """Return what the files below *folder* take on the disk; they may go as we look."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                # A file that is fetched in parts has its whole size from the start.
                total += (Path(root) / name).stat().st_blocks * 512
            except OSError:
                continue
    return total
