"""The benchmark's machine: its ports are the fleet's, and its script can run at every boot."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from loadbalancer import baseline, managed
from servekit.fleet.fleet import load_fleet
from tests.support.shell_scripts import ScratchRoot, lint, needs_shellcheck

FOLDER = Path("src/terraform/gcp_bench").resolve()
SCRIPT = FOLDER / "prepare-bench.sh"

# What changes a machine; here each notes how it was called.
COMMANDS = (
    *("apt-get", "apt-cache", "blkid", "curl", "dpkg-query", "mkfs.ext4", "modprobe", "mount"),
    *("mountpoint", "nvidia-ctk", "nvidia-smi", "reboot", "resize2fs", "systemctl"),
)


@dataclass(frozen=True, slots=True)
class Machine(ScratchRoot):
    """A machine that boots."""

    def device(self, name: str, kind: str) -> None:
        folder = self.root / "sys/bus/pci/devices" / name
        folder.mkdir(parents=True)
        (folder / "vendor").write_text("0x10de\n")
        (folder / "class").write_text(f"{kind}\n")

    def disk(self) -> None:
        disk = self.root / "dev/disk/by-id/google-model-cache"
        disk.parent.mkdir(parents=True)
        disk.touch()

    def boot(self) -> subprocess.CompletedProcess[str]:
        self.forget_calls()
        return self.execute(SCRIPT)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Fresh: nothing installed, an empty disk, no driver, and no GPU until a test plugs one in."""
    (tmp_path / "etc").mkdir()
    machine = Machine(tmp_path)
    for name in COMMANDS:
        machine.command(name)
    installed = f"{tmp_path}/installed"
    machine.command("apt-get", f'[[ $* != *install* ]] || printf "%s\\n" "$@" >>{installed}')
    machine.command(
        "dpkg-query",
        f'grep -qxs "${{@: -1}}" {installed} && echo "install ok installed"',
    )
    machine.command("blkid", f"[[ -s {tmp_path}/formatted ]]")
    machine.command("mkfs.ext4", f"echo yes >{tmp_path}/formatted")
    machine.command("mountpoint", f"[[ -s {tmp_path}/mounted ]]")
    machine.command("mount", f"echo yes >{tmp_path}/mounted")
    machine.command("nvidia-smi", "exit 9")
    docker = tmp_path / "etc/docker/daemon.json"
    machine.command(
        "nvidia-ctk", f"mkdir -p {docker.parent}; echo nvidia-container-runtime >{docker}"
    )
    return machine


def with_driver(machine: Machine, version: str) -> None:
    """A GPU whose driver answers."""
    machine.device("0000:00:04.0", "0x030200")
    machine.command("nvidia-smi", f"echo {version}")


def installs(machine: Machine) -> str:
    """Every package that was asked for in this boot."""
    return " ".join(call for call in machine.calls if call.startswith("apt-get") and "-qy" in call)


def test_firewall_opens_the_ports_of_the_fleets() -> None:
    """The machine's ports are those of the fleets that are made for it, and the balancers' own."""
    ports = json.loads((FOLDER / "ports.json").read_text())

    fleets = {
        name: [r.port for r in load_fleet(name).replicas] for name in ("h100", "l4", "colocated")
    }
    assert ports["engines"] == fleets["h100"] == fleets["l4"]
    assert set(fleets["colocated"]) <= set(ports["engines"])
    assert ports["balancers"] == [default_port(baseline.app), default_port(managed.app)]


def default_port(app: typer.Typer) -> int:
    command = typer.main.get_command(app)
    (port,) = (option.default for option in command.params if option.name == "port")
    assert isinstance(port, int)
    return port


def test_a_fresh_disk_is_formatted_and_mounted_once(machine: Machine) -> None:
    """The second boot finds the models where the first put them."""
    machine.disk()

    first = machine.boot()
    formatted = [call for call in machine.calls if call.startswith("mkfs")]
    second = machine.boot()

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert len(formatted) == 1
    assert not [call for call in machine.calls if call.startswith(("mkfs", "mount "))]
    assert (machine.root / "etc/fstab").read_text().count("/mnt/model-cache") == 1
    assert (machine.root / "mnt/model-cache/huggingface").is_dir()


def test_a_disk_with_models_is_never_formatted(machine: Machine) -> None:
    """A new instance takes over the disk of an old one."""
    machine.disk()
    (machine.root / "formatted").write_text("by somebody else")

    done = machine.boot()

    assert done.returncode == 0, done.stderr
    assert not [call for call in machine.calls if call.startswith("mkfs")]


def test_without_the_disk_models_are_kept_on_the_boot_disk(machine: Machine) -> None:
    """And the log says so."""
    done = machine.boot()

    assert done.returncode == 0, done.stderr
    assert "models are kept on the boot disk" in done.stdout
    assert not [call for call in machine.calls if call.startswith("mkfs")]


def test_a_machine_without_a_gpu_gets_docker_alone(machine: Machine) -> None:
    """The simulated fleet needs no more."""
    done = machine.boot()

    assert done.stdout.endswith("prepare-bench: done\n")
    assert "docker-compose-v2" in installs(machine)
    assert "nvidia" not in installs(machine)


def test_the_second_boot_installs_nothing(machine: Machine) -> None:
    """Nor does it restart Docker, in which the fleet runs."""
    with_driver(machine, "580.178.04")

    first = machine.boot()
    second = machine.boot()

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert installs(machine) == ""
    assert "systemctl restart docker" not in machine.calls


def test_docker_gets_the_gpu_runtime(machine: Machine) -> None:
    """From NVIDIA's repository, trusted by NVIDIA's key alone."""
    with_driver(machine, "580.178.04")

    done = machine.boot()

    assert done.returncode == 0, done.stderr
    source = (machine.root / "etc/apt/sources.list.d/nvidia-container-toolkit.list").read_text()
    assert "signed-by=/etc/apt/keyrings/nvidia-container-toolkit.asc" in source
    assert "nvidia-ctk runtime configure --runtime=docker" in machine.calls
    assert machine.calls.index("nvidia-ctk runtime configure --runtime=docker") < (
        machine.calls.index("systemctl restart docker")
    )


@pytest.mark.parametrize(
    ("version", "wanted"), [("580.178.04", False), ("615.1", False), ("535.216.03", True)]
)
def test_a_driver_is_installed_where_it_is_too_old(
    machine: Machine, version: str, wanted: bool
) -> None:
    """CUDA 13 runs on 580 and newer."""
    with_driver(machine, version)

    machine.boot()

    assert ("linux-modules-nvidia-580-server-open-gcp" in installs(machine)) == wanted


def test_a_driver_that_does_not_load_is_tried_again_after_one_reboot(machine: Machine) -> None:
    """And no more than one: a machine that reboots for ever costs as much as one that works."""
    machine.device("0000:00:04.0", "0x030200")

    first = machine.boot()
    rebooted = "reboot " in machine.calls
    second = machine.boot()

    assert rebooted
    assert first.returncode == 0
    assert second.returncode == 1
    assert "does not load after a reboot" in second.stderr
    assert "reboot " not in machine.calls


@pytest.mark.parametrize("switches", [0, 4])
def test_the_fabric_is_started_where_there_are_switches(machine: Machine, switches: int) -> None:
    """Eight H100 are joined by NVSwitches, and CUDA waits for them; an L4 has none."""
    with_driver(machine, "535.1")
    for number in range(switches):
        machine.device(f"0000:01:0{number}.0", "0x068000")
    machine.command(
        "modprobe", f'printf "#!/bin/bash\\necho 580.178.04" >{machine.root}/bin/nvidia-smi'
    )

    done = machine.boot()

    assert done.returncode == 0, done.stderr
    assert ("nvidia-fabricmanager-580" in installs(machine)) == bool(switches)
    assert ("systemctl enable --now nvidia-fabricmanager" in machine.calls) == bool(switches)


@needs_shellcheck
def test_the_script_is_clean() -> None:
    """By shellcheck."""
    lint([SCRIPT])
