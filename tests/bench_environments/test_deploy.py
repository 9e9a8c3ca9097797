"""The program against a stand-in for docker: what it does, and what it says when it cannot."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench_environments.deployment import MANAGED
from servekit.fleet.fleet import load_fleet
from tests.bench_environments.host import Host, reserved_ports


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    # And those on which the managed environment's pods are published.
    with reserved_ports(6, MANAGED.shift) as ports:
        yield Host(tmp_path, ports).with_docker()


def changes(host: Host) -> list[str]:
    """Calls of docker that change something."""
    words = {"up", "pull", "rm", "stop"}
    return [call for call in host.calls if words & set(call.split())]


def simulated(host: Host) -> tuple[object, ...]:
    return "--engine", "simulator", "--fleet", host.fleet()


def deploy(host: Host, environment: str, *args: object, **environ: str) -> tuple[int, str]:
    done = host.run("deploy", environment, *args, **environ)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def test_a_simulated_environment_comes_up(host: Host) -> None:
    """A container per replica and the load balancer, and the address in the end."""
    fleet, own = host.fleet(), host.port()

    code, said = deploy(host, "managed", "--fleet", fleet, "--engine", "simulator", own)

    assert code == 0, said
    assert "managed-smart-lb: ready" in said
    assert f"managed serves at http://127.0.0.1:{own.removeprefix('--port=')}" in said
    assert len(host.containers) == 2


def test_engines_of_one_gpu_start_one_after_another(host: Host) -> None:
    """Each is up before the next is started."""
    host.with_gpus(1)
    fleet = host.fleet(gpus=(0, 0))
    halves = "short_name: m, gpu_memory_utilization: 0.5"
    fleet.write_text(fleet.read_text().replace("short_name: m", halves))

    code, said = deploy(host, "baseline", "--fleet", fleet, host.port(), HF_TOKEN="hf_of_a_test")  # noqa: S106

    assert code == 0, said
    ups = [call.split("--remove-orphans ")[1] for call in host.calls if " up " in call]
    assert [len(services.split()) for services in ups] == [2, 3]


@pytest.mark.parametrize("environment", ["baseline", "managed"])
def test_a_missing_env_file_is_said_how_to_make(host: Host, environment: str) -> None:
    """Before Docker is asked anything."""
    code, said = deploy(host, environment)

    assert code == 2
    folder = f"src/docker/bench_{environment}"
    assert f"cp {folder}/.env.example {folder}/.env" in said
    assert host.calls == []


def test_an_env_file_without_a_token_is_refused(host: Host) -> None:
    """As it is after copying the example."""
    code, said = deploy(host, "baseline", "--env-file", host.env_file("# none\nHF_TOKEN=\n"))

    assert code == 2
    assert "HF_TOKEN is not set" in said
    assert host.calls == []


def test_without_docker_it_is_said_how_to_install_it(tmp_path: Path) -> None:
    """Nothing is on the PATH."""
    code, said = deploy(Host(tmp_path), "baseline", "--engine", "simulator")

    assert code == 2
    assert "docker is not on the PATH; install Docker" in said


@pytest.mark.parametrize(
    ("wrong", "value", "words"),
    [
        ("no-daemon", "", "no Docker daemon answers (Cannot connect"),
        ("no-compose", "", "Docker Compose is not installed; apt-get install"),
        ("compose-version", "1.25.0", "docker compose is 1.25.0, which does not support GPUs"),
    ],
)
def test_a_docker_that_will_not_do_is_named(host: Host, wrong: str, value: str, words: str) -> None:
    """And nothing is changed."""
    host.says(wrong, value)

    code, said = deploy(
        host, "baseline", "--engine", "simulator", "--fleet", host.fleet(), host.port()
    )

    assert code == 2
    assert words in said
    assert changes(host) == []


def test_a_taken_port_is_named(host: Host) -> None:
    """Whoever has it, nothing is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        args = (*simulated(host), f"--port={number}")

        code, said = deploy(host, "baseline", *args)

    assert code == 2
    assert f"port {number} is taken by a process on this machine" in said
    assert changes(host) == []


@pytest.mark.parametrize(
    ("gpus", "used", "words"),
    [
        (1, "", "this machine has 1 GPUs, but the fleet needs GPU 1"),
        (2, "GPU-1, 4711, python3\\n", "GPU 1 is used by process 4711 (python3)"),
        (0, "", "nvidia-smi says: nvidia-smi: not found"),
    ],
)
def test_gpus_that_cannot_be_had_are_named(host: Host, gpus: int, used: str, words: str) -> None:
    """Too few, in use, or no driver: nothing is started."""
    if gpus:
        host.with_gpus(gpus, used)
    args = ("--fleet", host.fleet(gpus=(0, 1)), "--env-file", host.env_file())

    code, said = deploy(host, "baseline", *args, host.port())

    assert code == 2
    assert words in said
    assert changes(host) == []


def test_the_other_environment_is_not_disturbed(host: Host) -> None:
    """With the same GPUs, only one of the two is up at a time."""
    host.with_gpus(2)
    args = ("--fleet", host.fleet(gpus=(0, 1)), "--env-file", host.env_file())
    assert deploy(host, "baseline", *args, host.port())[0] == 0
    before = host.containers

    code, said = deploy(host, "managed", *args, host.port())

    assert code == 2
    assert "the baseline environment is up and uses GPU " in said
    assert "scripts/teardown.sh baseline" in said
    assert host.containers == before


def test_environments_without_gpus_stand_side_by_side(host: Host) -> None:
    """The managed one publishes its pods on ports of its own, so that both can be compared."""
    args = simulated(host)

    assert deploy(host, "baseline", *args, host.port())[0] == 0
    assert deploy(host, "managed", *args, host.port())[0] == 0

    assert len(host.containers) == 4


def test_an_image_that_cannot_be_pulled_is_named(host: Host) -> None:
    """With Docker's reason and the way to build it; nothing is started."""
    host.says("pull-fails")

    code, said = deploy(
        host, "baseline", "--engine", "simulator", "--fleet", host.fleet(), host.port()
    )

    assert code == 1
    assert "image baseline_lb:latest cannot be pulled: Error response from daemon: pull" in said
    assert "./pants package src/docker/baseline_lb:image" in said
    assert host.containers == {}


def test_what_could_not_be_started_is_removed_again(host: Host) -> None:
    """With the reason that Compose gave."""
    host.says("up-fails")

    code, said = deploy(
        host, "baseline", "--engine", "simulator", "--fleet", host.fleet(), host.port()
    )

    assert code == 1
    assert "ERROR: for x could not select device driver" in " ".join(said.split())
    assert host.containers == {}


@pytest.mark.parametrize("keep", [False, True])
def test_a_pod_that_fails_shows_its_log(host: Host, keep: bool) -> None:
    """And the environment is removed, unless it is to be looked at."""
    fleet = host.fleet()
    name = "vllm-" + load_fleet(str(fleet)).replicas[0].name
    host.says(f"fails/{name}")
    kept = ("--keep",) if keep else ()

    args = ("--engine", "simulator", "--fleet", fleet, host.port(), *kept)
    code, said = deploy(host, "baseline", *args)

    assert code == 1
    assert f"{name}: CUDA out of memory" in said
    assert f"error: {name} is exited (3) after " in said
    assert bool(host.containers) is keep


def test_a_dry_run_asks_docker_nothing(host: Host) -> None:
    """It prints the Compose file, and what would be run with it."""
    args = (*simulated(host), "--dry-run")

    done = host.run("deploy", "baseline", *args)

    assert done.returncode == 0, done.stderr
    assert "baseline-simple-lb" in done.stdout
    assert "docker compose --project-name bench_baseline --file - up --detach" in done.stderr
    assert host.calls == []


def test_teardown_removes_one_environment(host: Host) -> None:
    """And `all` the other one too; what is not there is no error."""
    args = simulated(host)
    for environment in ("baseline", "managed"):
        assert deploy(host, environment, *args, host.port())[0] == 0

    one = host.run("teardown", "baseline")
    left = set(host.containers)
    rest = host.run("teardown", "all")
    again = host.run("teardown", "all")

    assert (one.returncode, rest.returncode, again.returncode) == (0, 0, 0)
    assert "managed-smart-lb" in left
    assert "baseline-simple-lb" not in left
    assert host.containers == {}
    assert "removed 0 containers" in again.stdout


def test_models_stay_unless_told(host: Host, tmp_path: Path) -> None:
    """They took a quarter of an hour to download."""
    cache = tmp_path / "models"
    (cache / "hub/models--a--b").mkdir(parents=True)
    given = {"MODEL_CACHE": str(cache)}

    host.run("teardown", "all", **given)
    assert (cache / "hub/models--a--b").is_dir()

    host.run("teardown", "all", "--remove-model-cache", **given)
    assert list(cache.iterdir()) == []


def test_a_folder_that_is_no_model_cache_stays(host: Host, tmp_path: Path) -> None:
    """A mistyped MODEL_CACHE costs nobody their files."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis").touch()
    given = {"MODEL_CACHE": str(tmp_path / "home")}

    done = host.run("teardown", "all", "--remove-model-cache", **given)

    assert done.returncode == 2
    assert "is not a model cache; correct MODEL_CACHE" in done.stderr
    assert (tmp_path / "home/thesis").is_file()


def test_a_dry_teardown_removes_nothing(host: Host) -> None:
    """It names what would go."""
    args = simulated(host)
    assert deploy(host, "baseline", *args, host.port())[0] == 0

    done = host.run("teardown", "all", "--dry-run")

    assert "would remove baseline-simple-lb" in done.stdout
    assert len(host.containers) == 2


def test_an_unknown_environment_is_a_usage_error(host: Host) -> None:
    """Of which there are two."""
    code, said = deploy(host, "production")

    assert code == 2
    assert "environment 'production' is unknown; it must be baseline or managed" in said
