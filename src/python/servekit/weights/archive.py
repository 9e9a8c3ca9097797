"""Unpack an archive of a model from a stranger.

Only regular files and folders inside the target are written: no absolute path, no `..`, no link, no
device, nothing twice, and no more bytes than allowed.  An archive that ends early is refused, which
`tarfile` alone does not do where the cut falls between two members.
"""

import bz2
import gzip
import lzma
import tarfile
import threading
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, cast

from servekit.errors.tree import WeightsRefused

# A sharded model has hundreds of files; a hundred thousand is an attack on the file system.
MAX_MEMBERS = 100_000

_COPY_BYTES = 1024 * 1024
# tarfile reads the body of an extended header in one piece; honest ones hold a few paths.
_MAX_READ_BYTES = 16 * 1024 * 1024
_END_OF_ARCHIVE = bytes(tarfile.BLOCKSIZE)

_BAD_ARCHIVE = (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile)


class Stopped(Exception):
    """Unpacking was asked to stop."""


def unpack(
    archive: Path,
    target: Path,
    *,
    max_bytes: int,
    stop: threading.Event,
    wrote: Callable[[int], None],
) -> None:
    """Unpack *archive*, a tar that may be compressed, into the new folder *target*.

    *wrote* is told of every piece, in bytes.  What was written before an error stays there.

    Raises:
        WeightsRefused: the archive is no tar, is cut, or holds what it must not.
        Stopped: *stop* was set.
    """
    target.mkdir(parents=True)
    try:
        with _decompressed(archive) as plain:
            reader = _Reader(plain, stop)
            with tarfile.open(fileobj=cast(IO[bytes], reader), mode="r:") as tar:
                _unpack_members(tar, target, max_bytes, wrote)
            _require_end(archive, reader)
    except _BAD_ARCHIVE as error:
        raise WeightsRefused(
            f"{archive.name} cannot be unpacked: {_why(error)}; upload a whole tar archive"
        ) from error


def _unpack_members(
    tar: tarfile.TarFile, target: Path, max_bytes: int, wrote: Callable[[int], None]
) -> None:
    budget = max_bytes
    for count, member in enumerate(tar):
        if count >= MAX_MEMBERS:
            raise _refused(member, f"is beyond the limit of {MAX_MEMBERS} files")
        budget -= member.size
        if member.size < 0 or budget < 0:
            raise _refused(member, f"is beyond the {max_bytes} bytes that are allowed, or free")
        _unpack_member(tar, member, target / _inside(member), wrote)


def _unpack_member(
    tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, wrote: Callable[[int], None]
) -> None:
    try:
        if member.isdir():
            path.mkdir(parents=True, exist_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            _copy(tar, member, file, wrote)
    except (FileExistsError, NotADirectoryError) as error:
        raise _refused(member, "stands there twice") from error
    except ValueError as error:
        raise _refused(member, "has no possible name") from error


def _copy(
    tar: tarfile.TarFile, member: tarfile.TarInfo, file: IO[bytes], wrote: Callable[[int], None]
) -> None:
    content = tar.extractfile(member)
    left = member.size
    while content is not None and left > 0:
        piece = content.read(min(left, _COPY_BYTES))
        if not piece:
            raise _refused(member, "is cut")
        file.write(piece)
        wrote(len(piece))
        left -= len(piece)


def _inside(member: tarfile.TarInfo) -> PurePosixPath:
    if not (member.isreg() or member.isdir()):
        raise _refused(
            member, "is a link, a device or a pipe (pack links with `tar --dereference`)"
        )
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\0" in member.name:
        raise _refused(member, "leads out of the folder")
    return path


def _refused(member: tarfile.TarInfo, what: str) -> WeightsRefused:
    return WeightsRefused(f"the archive is refused: {member.name[:200]!r} {what}")


def _require_end(archive: Path, reader: "_Reader") -> None:
    # tarfile stops quietly at a header that it cannot read; a whole archive ends in zeros.
    if reader.last != _END_OF_ARCHIVE:
        raise WeightsRefused(
            f"{archive.name} ends without an end mark, so it was cut or damaged; upload it again"
        )


def _decompressed(archive: Path) -> IO[bytes]:
    with archive.open("rb") as file:
        magic = file.read(6)
    if magic.startswith(b"\x1f\x8b"):
        return gzip.open(archive, "rb")  # type: ignore[return-value]
    if magic.startswith(b"BZh"):
        return bz2.open(archive, "rb")
    if magic.startswith(b"\xfd7zXZ\x00"):
        return lzma.open(archive, "rb")
    return archive.open("rb")


class _Reader:
    """A file that tarfile reads from: bounded pieces, the last one kept, and stoppable."""

    def __init__(self, file: IO[bytes], stop: threading.Event) -> None:
        self._file = file
        self._stop = stop
        self.last = b""

    def read(self, count: int = -1) -> bytes:
        if self._stop.is_set():
            raise Stopped
        if not 0 <= count <= _MAX_READ_BYTES:
            raise tarfile.ReadError(f"a header of {count} bytes")
        self.last = self._file.read(count)
        return self.last

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)


def _why(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
