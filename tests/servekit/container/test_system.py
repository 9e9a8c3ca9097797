"""What is asked of the host."""

from pathlib import Path

import pytest

from servekit.container.system import find_arch, name_host
from servekit.engine.dtype import GpuArch


def test_host_name_is_made_resolvable(tmp_path: Path) -> None:
    """Once."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")

    for _ in range(2):
        name_host(pytest.fail, hosts, "instance-7")

    assert hosts.read_text() == "127.0.0.1 localhost\n127.0.0.1 instance-7\n"


def test_read_only_hosts_file_is_a_warning(tmp_path: Path) -> None:
    """On Cloud Run it is one, and the seed died of it."""
    warnings: list[str] = []

    name_host(warnings.append, tmp_path, "instance-7")

    assert len(warnings) == 1


def _driver(folder: Path, says: str, code: int = 0) -> tuple[str, ...]:
    script = folder / "nvidia-smi"
    script.write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    script.chmod(0o755)
    return (str(script),)


@pytest.mark.parametrize(
    ("says", "code", "arch_list", "arch", "warned"),
    [
        ("8.9", 0, "8.9", GpuArch(8, 9), 0),
        ("9.0", 0, "8.9", GpuArch(9, 0), 1),
        ("8.9", 0, "", GpuArch(8, 9), 0),
        ("Failed to initialize NVML", 9, "8.0;9.0", GpuArch(8, 0), 0),
        ("N/A", 0, "", None, 0),
    ],
)
async def test_drivers_word_goes_before_the_list(
    tmp_path: Path, says: str, code: int, arch_list: str, arch: GpuArch | None, warned: int
) -> None:
    """A list for another GPU is warned about: kernels are then compiled at start."""
    warnings: list[str] = []

    assert await find_arch(arch_list, warnings.append, _driver(tmp_path, says, code)) == arch
    assert len(warnings) == warned


async def test_machine_without_a_driver_has_the_list() -> None:
    """Or nothing."""
    assert await find_arch("7.5", pytest.fail, ("no-such-program",)) == GpuArch(7, 5)
    assert await find_arch("", pytest.fail, ("no-such-program",)) is None
