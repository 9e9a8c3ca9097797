"""Unpacking archives from strangers."""

import io
import os
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from servekit.errors.tree import WeightsRefused
from servekit.weights.archive import Unpacking, unpack
from servekit.weights.arrivals import Arrivals, Stopped
from tests.support.model_archive import model_files, tar, tar_of


def _unpack_file(
    folder: Path,
    max_bytes: int = 10**9,
    stop: threading.Event | None = None,
    wrote: Callable[[int], None] = lambda _count: None,
) -> Path:
    archive, target = folder / "archive", folder / "files"
    arrivals = Arrivals()
    arrivals.finish(archive.stat().st_size)
    unpack(archive, target, arrivals, Unpacking(max_bytes, stop or threading.Event(), wrote))
    return target


def _unpack(folder: Path, content: bytes, max_bytes: int = 10**9) -> Path:
    (folder / "archive").write_bytes(content)
    return _unpack_file(folder, max_bytes)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_every_compression_is_unpacked(tmp_path: Path, mode: str) -> None:
    """The content decides, not the name."""
    files = model_files()

    target = _unpack(tmp_path, tar(files, mode))

    assert {path.name: path.read_bytes() for path in target.iterdir()} == files


@pytest.mark.parametrize("level", [1, 19])
def test_zstd_is_unpacked(tmp_path: Path, level: int) -> None:
    """Also of several frames, as `pzstd` and `cat a.zst b.zst` make them."""
    files = {**model_files(), "big.txt": b"abc" * 1_000_000}
    plain = tar(files)
    half = len(plain) // 2
    frames = [zstandard.compress(part, level) for part in (plain[:half], plain[half:])]

    target = _unpack(tmp_path, b"".join(frames))

    assert {path.name: path.read_bytes() for path in target.iterdir()} == files


def test_a_cut_zstd_is_refused(tmp_path: Path) -> None:
    """As every other compression."""
    content = zstandard.compress(tar({"a": os.urandom(100_000)}))

    with pytest.raises(WeightsRefused):
        _unpack(tmp_path, content[: len(content) // 2])


def test_folders_are_made(tmp_path: Path) -> None:
    """A file in a folder that the archive does not list is written too."""
    target = _unpack(tmp_path, tar({"./a/b/c.txt": b"c"}))

    assert (target / "a/b/c.txt").read_bytes() == b"c"


def test_progress_adds_up_to_the_content(tmp_path: Path) -> None:
    """Every byte is told once."""
    (tmp_path / "archive").write_bytes(tar({"a": b"x" * 3_000_000, "b": b"y" * 7}))
    told: list[int] = []

    _unpack_file(tmp_path, wrote=told.append)

    assert sum(told) == 3_000_007


def _special(kind: bytes, name: str = "x", target: str = "config.json") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = target
    return member


@pytest.mark.parametrize(
    "member",
    [
        _special(tarfile.SYMTYPE, target="/etc"),
        _special(tarfile.SYMTYPE, target="config.json"),
        _special(tarfile.LNKTYPE, target="../secret"),
        _special(tarfile.CHRTYPE),
        _special(tarfile.BLKTYPE),
        _special(tarfile.FIFOTYPE),
        _special(tarfile.REGTYPE, "../escaped"),
        _special(tarfile.REGTYPE, "a/../../escaped"),
        _special(tarfile.REGTYPE, "/tmp/escaped"),  # noqa: S108
        _special(tarfile.DIRTYPE, "../escaped"),
    ],
    ids=lambda member: f"{member.type.decode()}-{member.name}",
)
def test_what_could_harm_is_refused(tmp_path: Path, member: tarfile.TarInfo) -> None:
    """Links, devices, pipes and ways out are refused, by name, and nothing of them is written."""
    inner = tmp_path / "inner"
    inner.mkdir()

    with pytest.raises(WeightsRefused, match=r"refused: '.*'"):
        _unpack(inner, tar_of(member))

    assert sorted(path.name for path in tmp_path.rglob("*")) == ["archive", "files", "inner"]


@pytest.mark.parametrize("names", [("a", "a"), ("a", "a/b")])
def test_nothing_is_written_twice(tmp_path: Path, names: tuple[str, str]) -> None:
    """A second member of the same name could replace what was checked."""
    members = [tarfile.TarInfo(name) for name in names]

    with pytest.raises(WeightsRefused, match="twice"):
        _unpack(tmp_path, tar_of(*members))


def test_a_bomb_is_refused_before_it_is_written(tmp_path: Path) -> None:
    """A small archive that would fill the disk is refused by what its headers announce."""
    bomb = tar({"model.safetensors": bytes(50_000_000)}, "w:gz")
    assert len(bomb) < 100_000

    with pytest.raises(WeightsRefused, match="1000000 bytes"):
        _unpack(tmp_path, bomb, max_bytes=1_000_000)

    assert list((tmp_path / "files").iterdir()) == []


def test_a_header_as_large_as_the_memory_is_refused(tmp_path: Path) -> None:
    """An extended header is read in one piece; one of 64 MiB is no path."""
    member = tarfile.TarInfo("x")
    member.type = tarfile.XHDTYPE
    member.size = 64 * 1024 * 1024
    header = member.tobuf(tarfile.USTAR_FORMAT)

    with pytest.raises(WeightsRefused, match="header of"):
        _unpack(tmp_path, header + bytes(member.size))


def _cuts(content: bytes) -> list[int]:
    """Every block edge, and places within blocks."""
    end = len(content.rstrip(b"\0")) // 512 * 512
    return [*range(0, end + 1, 512), 1, 100, 513, 700, end - 1]


def test_an_archive_that_ends_early_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    """No cut passes for a whole archive: not in a file, not in a header, not between two files."""
    content = tar({"a": b"a" * 700, "b": b"", "c": b"c" * 512})

    for number, cut in enumerate(_cuts(content)):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(WeightsRefused):
            _unpack(folder, content[:cut])


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_archive_that_ends_early_is_refused(tmp_path: Path, mode: str) -> None:
    """A cut stream is refused, not taken for its beginning."""
    content = tar({"a": b"a" * 700}, mode)

    with pytest.raises(WeightsRefused):
        _unpack(tmp_path, content[: len(content) // 2])


@pytest.mark.parametrize("content", [b"", b"not a tar" * 1000, b"\x1f\x8bnot gzip", b"<html>"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    """An error page behind the URL is told as what it is."""
    with pytest.raises(WeightsRefused, match="archive"):
        _unpack(tmp_path, content)


def test_damage_between_two_files_is_refused(tmp_path: Path) -> None:
    """tarfile takes a header that it cannot read for the end; we do not."""
    content = bytearray(tar({"a": b"a" * 512, "b": b"b"}))
    content[1024:1030] = b"\xff" * 6

    with pytest.raises(WeightsRefused, match="end mark"):
        _unpack(tmp_path, bytes(content))


def test_unpacking_can_be_stopped(tmp_path: Path) -> None:
    """A process that is asked to end need not unpack to the end."""
    (tmp_path / "archive").write_bytes(tar({"a": b"a"}))
    stop = threading.Event()
    stop.set()

    with pytest.raises(Stopped):
        _unpack_file(tmp_path, stop=stop)


def test_a_file_has_no_rights_from_the_archive(tmp_path: Path) -> None:
    """Nothing unpacked can be run, or runs as somebody else."""
    member = tarfile.TarInfo("run.sh")
    member.mode = 0o6777
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(member)

    target = _unpack(tmp_path, buffer.getvalue())

    assert (target / "run.sh").stat().st_mode & 0o7111 == 0
