"""Both environments on the real Docker and Compose: brought up, compared, taken down."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bench_environments.deployment import MANAGED
from bench_environments.generated import generated_files
from tests.bench_environments.host import MODEL, Host, fleet_text, reserved_ports, run_here

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

LABEL = "io.servekit.environment"


def docker(*args: str) -> str:
    done = subprocess.run(("docker", *args), capture_output=True, text=True, check=True)  # noqa: S603, S607
    return done.stdout.strip()


def ours(*listed: str) -> list[str]:
    """Names of what an environment of ours has, of one kind of object."""
    found = docker(*listed, "--filter", f"label={LABEL}")
    return sorted(found.split())


def containers() -> list[str]:
    return ours("ps", "--all", "--format", "{{.Names}}")


def networks() -> list[str]:
    found = docker("network", "ls", "--format", "{{.Name}}")
    return sorted(name for name in found.split() if name.startswith("bench_"))


def shown() -> list[str]:
    """`docker ps`, as people read it."""
    form = "table {{.Names}}\t{{.Status}}\t{{.Ports}}"
    return docker("ps", "--filter", f"label={LABEL}", "--format", form).splitlines()


@pytest.fixture(scope="module", autouse=True)
def nothing_up() -> None:
    """Skip where there is no Docker, and leave an environment of somebody's alone."""
    try:
        docker("version")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no Docker daemon answers; build-support/images/dockerd starts one")
    if compose() is None:
        pytest.skip("Docker Compose is not installed; apt-get install docker-compose")
    if containers():
        pytest.skip("an environment is up here already; scripts/teardown.sh all ends it")


def compose() -> list[str] | None:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and not _code(*command, "version", "--short"):
            return command
    return None


def _code(*argv: str) -> int:
    return subprocess.run(argv, capture_output=True, check=False).returncode  # noqa: S603


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Ports are reserved with those of the other arm; whatever happens, nothing stays up."""
    with reserved_ports(5, MANAGED.shift) as ports:
        yield Host(tmp_path, ports)
    run_here(tmp_path, "bench_environments.main", "teardown", "all")


@pytest.fixture
def fleet(host: Host) -> Path:
    """Two simulated replicas, which the images read: they run as somebody else."""
    path = host.root / "fleet.yaml"
    path.write_text(fleet_text([next(host.ports), next(host.ports)], (0, 1)))
    path.chmod(0o644)
    return path


def deploy(host: Host, environment: str, fleet: Path, port: int) -> None:
    args = ("--engine", "simulator", "--fleet", fleet, "--port", port, "--timeout-s", 120)
    done = run_here(host.root, "bench_environments.main", "deploy", environment, *args)
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_are_compared_and_leave_nothing(host: Host, fleet: Path, table: list[str]) -> None:
    """Up, up again, compared in turns through the published ports, and gone."""
    ports = next(host.ports), next(host.ports)
    table += ["docker ps, before:", *shown()]

    deploy(host, "baseline", fleet, ports[0])
    deploy(host, "managed", fleet, ports[1])
    table += ["docker ps, during:", *shown()]
    before = docker("ps", "--quiet", "--filter", f"label={LABEL}")
    deploy(host, "managed", fleet, ports[1])
    again = docker("ps", "--quiet", "--filter", f"label={LABEL}")

    urls = [f"http://127.0.0.1:{port}" for port in ports]
    load = (
        "--rate",
        4,
        "--parts",
        2,
        "--part-s",
        4,
        "--steady-s",
        0,
        "--warmup-s",
        1,
        "--output-dir",
        host.root,
    )
    compared = run_here(host.root, "bench.runner", "compare", *urls, *load)
    table += compared.stdout.splitlines()

    down = run_here(host.root, "bench_environments.main", "teardown", "all")
    table += ["docker ps, after:", *shown()]

    assert before == again
    assert compared.returncode == 0, compared.stdout + compared.stderr
    found = json.loads(next(host.root.rglob("comparison.json")).read_text())
    failed = found["metrics"]["error_rate"]
    assert found["interleaved"]
    assert failed["baseline"] == failed["candidate"] == 0
    assert down.returncode == 0, down.stderr
    assert (containers(), networks()) == ([], [])


def test_a_pod_that_cannot_start_shows_why_and_leaves_nothing(host: Host, fleet: Path) -> None:
    """The simulator knows no such GPU: its words are in the output."""
    fleet.write_text(fleet.read_text().replace("gpus: [1]", "gpus: [1], gpu: abacus"))
    args = ("--engine", "simulator", "--fleet", fleet, "--port", next(host.ports))

    done = run_here(host.root, "bench_environments.main", "deploy", "baseline", *args)

    assert done.returncode == 1
    assert "GPU type 'abacus' is unknown" in done.stdout
    assert "is exited (2) after" in done.stderr
    assert (containers(), networks()) == ([], [])


def test_an_image_that_nobody_has_is_named(host: Host, fleet: Path) -> None:
    """With Docker's own reason, and before anything is started."""
    env_file = host.env_file("SIMULATOR_IMAGE=localhost:9/absent:v1\n")
    args = ("--engine", "simulator", "--fleet", fleet, "--port", next(host.ports))

    done = run_here(
        *(host.root, "bench_environments.main", "deploy", "baseline"),
        *(*args, "--env-file", env_file),
    )

    assert done.returncode == 1
    assert "image localhost:9/absent:v1 cannot be pulled: Error" in done.stderr
    assert containers() == []


def test_a_port_of_another_container_is_named(host: Host, fleet: Path) -> None:
    """By the container that has it."""
    port = next(host.ports)
    args = ("--engine", "simulator", "--fleet", fleet, "--port", port)
    name = f"servekit-test-{port}"
    docker("run", "--detach", "--name", name, "--publish", f"127.0.0.1:{port}:8001", "simulator")
    try:
        done = run_here(host.root, "bench_environments.main", "deploy", "baseline", *args)
    finally:
        docker("rm", "--force", name)

    assert done.returncode == 2
    assert f"port {port} is taken by container {name}; docker stop {name}" in done.stderr
    assert containers() == []


@pytest.mark.parametrize("name", [name for name in generated_files() if name.endswith(".yaml")])
def test_compose_takes_every_file(tmp_path: Path, name: str) -> None:
    """With nothing set but the token."""
    file = tmp_path / "compose.yaml"
    file.write_text(generated_files()[name])
    (tmp_path / ".env").write_text("HF_TOKEN=of-a-test\n")
    command = compose()
    assert command is not None

    done = subprocess.run(  # noqa: S603
        [*command, "--file", str(file), "config"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    resolved = msgspec.yaml.decode(done.stdout)["services"]
    assert resolved.keys() == msgspec.yaml.decode(generated_files()[name])["services"].keys()
    assert "${" not in done.stdout


def test_models_at_the_published_ports(host: Host, fleet: Path) -> None:
    """Each pod by itself, and the load balancer, as `curl` would ask them."""
    port = next(host.ports)
    deploy(host, "managed", fleet, port)
    ask = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"

    for place in (port, *(int(one) + MANAGED.shift for one in _ports_of(fleet))):
        url = f"http://127.0.0.1:{place}/v1/models"
        said = subprocess.run(  # noqa: S603
            [sys.executable, "-c", ask, url], capture_output=True, text=True, check=True
        )
        assert [one["id"] for one in json.loads(said.stdout)["data"]] == [MODEL]


def _ports_of(fleet: Path) -> list[int]:
    return [one["port"] for one in msgspec.yaml.decode(fleet.read_text())["replicas"]]
