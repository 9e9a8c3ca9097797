"""A model small enough for any test, as files and as a tar."""

import io
import json
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path


def safetensors(payload: bytes = b"12345678") -> bytes:
    """One float32 vector, in the format of safetensors."""
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [len(payload) // 4], "data_offsets": [0, len(payload)]}}
    ).encode()
    return struct.pack("<Q", len(header)) + header + payload


def model_files(payload: bytes = b"12345678") -> dict[str, bytes]:
    """Every file of a model, by name."""
    return {"config.json": b'{"model_type": "llama"}', "model.safetensors": safetensors(payload)}


def write_model(folder: Path, payload: bytes = b"12345678") -> Path:
    """Write the model's files into the new *folder*."""
    folder.mkdir(parents=True)
    for name, content in model_files(payload).items():
        (folder / name).write_bytes(content)
    return folder


def tar(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    """Pack *files*; *mode* chooses the compression, as for `tarfile.open`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def tar_of(*members: tarfile.TarInfo) -> bytes:
    """Pack members without content, such as links and devices."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member in members:
            archive.addfile(member)
    return buffer.getvalue()
