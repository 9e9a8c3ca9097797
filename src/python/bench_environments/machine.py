"""What of a machine is taken: ports, and GPUs.  Opens sockets and starts nvidia-smi."""

import errno
import socket
from collections.abc import Iterable

from bench_environments.docker import Docker, Run
from bench_environments.failures import ResourceTaken
from servekit.errors.tree import SettingInvalid

_LIST = ("nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader")
_USERS = (
    "nvidia-smi",
    "--query-compute-apps=gpu_uuid,pid,process_name",
    "--format=csv,noheader",
)


def check_ports(ports: Iterable[int], docker: Docker) -> None:
    """Raise if one of *ports* is in use.

    Raises:
        ResourceTaken: by whom, where Docker knows it.
    """
    for port in sorted(ports):
        if not _is_free(port):
            holder = docker.holder_of(port)
            who = f"container {holder}" if holder else "a process on this machine"
            remedy = f"docker stop {holder}" if holder else f"find it: ss -ltnp 'sport = :{port}'"
            raise ResourceTaken(f"port {port} is taken by {who}; {remedy}")


def check_gpus(gpus: Iterable[int], run: Run) -> None:
    """Raise unless *gpus* exist and no process uses them.

    Raises:
        SettingInvalid: there are not so many.
        ResourceTaken: a process uses one.
    """
    wanted = sorted(gpus)
    if not wanted:
        return
    uuids = _gpus_here(run, wanted)
    missing = [gpu for gpu in wanted if gpu not in uuids]
    if missing:
        raise SettingInvalid(
            f"this machine has {len(uuids)} GPUs, but the fleet needs GPU {missing[0]}; choose "
            "another --fleet"
        )
    used = dict(_users(run))
    for gpu in wanted:
        if uuids[gpu] in used:
            raise ResourceTaken(
                f"GPU {gpu} is used by {used[uuids[gpu]]}; stop it, or choose another --fleet"
            )


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        # As Docker does: a port whose last connection has just ended is free.
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("0.0.0.0", port))  # noqa: S104
        except OSError as error:
            # Below 1024 only root may bind; Docker's daemon is root.
            return error.errno != errno.EADDRINUSE
    return True


def _gpus_here(run: Run, wanted: list[int]) -> dict[int, str]:
    done = run(_LIST)
    if done.code != 0:
        raise SettingInvalid(
            f"the fleet needs {len(wanted)} GPUs, but nvidia-smi says: {done.reason}; install "
            "NVIDIA's driver, or use --engine simulator"
        )
    rows = (line.split(",") for line in done.out.splitlines() if "," in line)
    return {int(index): uuid.strip() for index, uuid in rows}


def _users(run: Run) -> Iterable[tuple[str, str]]:
    for line in run(_USERS).out.splitlines():
        uuid, _, process = line.partition(",")
        pid, _, name = process.partition(",")
        if uuid.strip():
            yield uuid.strip(), f"process {pid.strip()} ({name.strip()})"
