"""Unpack an archive of a model from a stranger, also while it still arrives.

Only regular files and folders inside the target are written: no absolute path, no `..`, no link, no
device, nothing twice, and no more bytes than allowed.  An archive that ends early is refused, which
`tarfile` alone does not do where the cut falls between two members.
"""

import bz2
import ctypes
import gzip
import lzma
import os
import tarfile
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import zstandard

from servekit.errors.tree import WeightsRefused
from servekit.weights.arrivals import Arrivals, Stopped

# A sharded model has hundreds of files; a hundred thousand is an attack on the file system.
MAX_MEMBERS = 100_000

_COPY_BYTES = 1024 * 1024
# tarfile reads the body of an extended header in one piece; honest ones hold a few paths.
_MAX_READ_BYTES = 16 * 1024 * 1024
_END_OF_ARCHIVE = bytes(tarfile.BLOCKSIZE)

_BAD_ARCHIVE = (
    tarfile.TarError,
    EOFError,
    lzma.LZMAError,
    zlib.error,
    gzip.BadGzipFile,
    zstandard.ZstdError,
)

# linux/falloc.h: keep the size, give back the blocks.
_PUNCH_HOLE = 0x01 | 0x02
_BLOCK_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Unpacking:
    """How an archive is unpacked.

    Attributes:
        max_bytes: the most that may be written.
        wrote: told of every piece, in bytes.
        frees: whether blocks of the archive are given back to the disk once they are unpacked;
            where it is not compressed, a later process then goes on with what was unpacked.
    """

    max_bytes: int
    stop: threading.Event
    wrote: Callable[[int], None]
    frees: bool = False


def unpack(archive: Path, target: Path, arrivals: Arrivals, how: Unpacking) -> None:
    """Unpack *archive*, a tar that may be compressed, into the folder *target*.

    *arrivals* tells how much of it is there; it may still be downloaded.  What was written before
    an error stays there.  Blocks.

    Raises:
        WeightsRefused: the archive is no tar, is cut, or holds what it must not.
        Stopped: `how.stop` was set.
        Restarted: the archive changed on its server; start over with an empty target.
        Lost: what an earlier process unpacked is not there any more; likewise.
    """
    since = arrivals.begun(how.stop)
    target.mkdir(parents=True, exist_ok=True)
    try:
        with _Arriving(archive, arrivals, how.stop, since) as raw:
            plain = _decompressed(raw)
            reader = _Reader(plain, how.stop)
            with tarfile.open(fileobj=cast(IO[bytes], reader), mode="r:") as tar:
                freed = _Freed(archive) if how.frees and plain is raw else None
                _unpack_members(tar, target, how, freed)
            _require_end(archive, reader)
    except _BAD_ARCHIVE as error:
        raise WeightsRefused(
            f"{archive.name} cannot be unpacked: {_why(error)}; upload a whole tar archive"
        ) from error


class Lost(Exception):
    """Bytes that were given back to the disk are not among the unpacked files."""


def _unpack_members(
    tar: tarfile.TarFile, target: Path, how: Unpacking, freed: "_Freed | None"
) -> None:
    budget = how.max_bytes
    seen: set[PurePosixPath] = set()
    for count, member in enumerate(tar):
        if count >= MAX_MEMBERS:
            raise _refused(member, f"is beyond the limit of {MAX_MEMBERS} files")
        budget -= member.size
        if member.size < 0 or budget < 0:
            raise _refused(member, f"is beyond the {how.max_bytes} bytes that are allowed, or free")
        inside = _inside(member)
        if inside in seen and not member.isdir():
            raise _refused(member, "is there twice")
        seen.add(inside)
        _unpack_member(tar, member, target / inside, how, freed)


def _unpack_member(
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    path: Path,
    how: Unpacking,
    freed: "_Freed | None",
) -> None:
    try:
        if member.isdir():
            path.mkdir(parents=True, exist_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        flags |= 0 if freed else os.O_EXCL
        with os.fdopen(os.open(path, flags, 0o644), "wb") as file:
            _copy(tar, member, file, how, freed)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise _refused(member, "is there twice") from error
    except ValueError as error:
        raise _refused(member, "has no possible name") from error


def _copy(
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    file: IO[bytes],
    how: Unpacking,
    freed: "_Freed | None",
) -> None:
    content = tar.extractfile(member)
    done = freed.resumed(member, os.fstat(file.fileno()).st_size) if freed else 0
    how.wrote(done)
    if content is None or done == member.size:
        return
    content.seek(done)
    file.seek(done)
    while done < member.size:
        piece = content.read(min(member.size - done, _COPY_BYTES))
        if not piece:
            raise _refused(member, "is cut")
        file.write(piece)
        how.wrote(len(piece))
        done += len(piece)
        if freed:
            file.flush()
            freed.free(member.offset_data, member.offset_data + done)


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


def _decompressed(raw: "_Arriving") -> Any:
    """Return the tar in *raw*: itself, or what reads it through its compression."""
    magic = raw.read(6)
    raw.seek(0)
    file = cast(IO[bytes], raw)
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file, mode="rb")
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if magic.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMAFile(file)
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        return _Forward(zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))
    return raw


class _Arriving:
    """A file that may still be downloaded: to read what is not there yet is to wait for it."""

    def __init__(self, path: Path, arrivals: Arrivals, stop: threading.Event, since: int) -> None:
        self._path = path
        self._arrivals = arrivals
        self._stop = stop
        self._since = since
        self._offset = 0
        self._file: int | None = None

    def __enter__(self) -> "_Arriving":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            os.close(self._file)

    def read(self, count: int = -1) -> bytes:
        if count == 0:
            return b""
        end = self._arrivals.wait(self._offset, self._stop, since=self._since)
        if end <= self._offset:
            return b""
        if self._file is None:
            self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        there = end - self._offset
        piece = os.pread(self._file, there if count < 0 else min(count, there), self._offset)
        self._offset += len(piece)
        return piece

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_CUR:
            offset += self._offset
        elif whence == os.SEEK_END:
            raise OSError("the end of what still arrives is not known")
        self._offset = offset
        return offset

    def tell(self) -> int:
        return self._offset

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


class _Forward:
    """A stream that can only be read on, with the seeks that tarfile makes: forward ones."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._offset = 0

    def read(self, count: int = -1) -> bytes:
        piece: bytes = self._stream.read(count)
        self._offset += len(piece)
        return piece

    def tell(self) -> int:
        return self._offset

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET or offset < self._offset:
            raise tarfile.ReadError("the archive cannot be read backwards")
        while self._offset < offset and self.read(min(offset - self._offset, _COPY_BYTES)):
            pass
        return self._offset


class _Freed:
    """The part of an archive whose blocks were given back, for this process and a later one."""

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        self._note = freed_note(archive)
        try:
            self._end = int(self._note.read_text() or 0)
        except (OSError, ValueError):
            self._end = 0
        self._fallocate: Any = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)

    def resumed(self, member: tarfile.TarInfo, size: int) -> int:
        """Return how many bytes of *member*, that has *size* on disk, need not be written again.

        Raises:
            Lost: more of it was given back than is on disk.
        """
        gone = min(max(0, self._end - member.offset_data), member.size)
        if size < gone or size > member.size:
            raise Lost
        return size

    def free(self, start: int, end: int) -> None:
        """Give back the blocks from *start* to *end* that were not yet, in steps worth a call."""
        first = -(-max(start, self._end) // _BLOCK_BYTES) * _BLOCK_BYTES
        last = end // _BLOCK_BYTES * _BLOCK_BYTES
        if last - first < 16 * _COPY_BYTES or self._fallocate is None:
            return
        # Noted first: a hole that nobody knows of would be read as zeros.
        fresh = self._note.with_suffix(".new")
        fresh.write_text(str(last))
        fresh.replace(self._note)
        with self._archive.open("r+b") as file:
            failed = self._fallocate(
                file.fileno(), _PUNCH_HOLE, ctypes.c_int64(first), ctypes.c_int64(last - first)
            )
        self._end = last
        if failed:
            self._fallocate = None


def freed_note(archive: Path) -> Path:
    """Return where it is noted how much of *archive* was given back."""
    return archive.with_name(f"{archive.name}.freed")


class _Reader:
    """A file that tarfile reads from: bounded pieces, the last one kept, and stoppable."""

    def __init__(self, file: Any, stop: threading.Event) -> None:
        self._file = file
        self._stop = stop
        self.last = b""

    def read(self, count: int = -1) -> bytes:
        if self._stop.is_set():
            raise Stopped
        if not 0 <= count <= _MAX_READ_BYTES:
            raise tarfile.ReadError(f"a header of {count} bytes")
        pieces: list[bytes] = []
        while count > 0 and (piece := self._file.read(count)):
            pieces.append(piece)
            count -= len(piece)
        self.last = b"".join(pieces)
        return self.last

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))


def _why(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
