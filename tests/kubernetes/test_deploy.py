"""From an applied cluster to the first token: `deploy`, with stand-ins for what is in AWS."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from servekit.launch.port import free_port
from tests.kubernetes.manifests import KUBECTL_MISSING
from tests.support.shell_scripts import ScratchRoot, lint, needs_shellcheck

DEPLOY = Path("src/kubernetes/deploy").resolve()
PUSH = Path("build-support/images/push").resolve()
REGISTRY = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
PUBLISHED = "certificate-authority-data: x\nserver: https://127.0.0.1:6443"

pytestmark = [
    pytest.mark.skipif(shutil.which("kubectl") is None, reason=KUBECTL_MISSING),
    pytest.mark.skipif(shutil.which("jq") is None, reason="no jq on the PATH; apt-get install jq"),
]

# Listens where the Session Manager plugin would, and ends with its caller.
FORWARD = """
last=${@: -1}
port=${last##*=}
exec python3 -c 'import socket, sys
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True: listening.accept()[0].close()' "$port"
"""


@dataclass(frozen=True, slots=True)
class Applied(ScratchRoot):
    """A machine from which a cluster was applied."""

    def deploy(self, *arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
        return self.execute(
            DEPLOY,
            *arguments,
            API_PORT=str(free_port()),
            PAGE_PORT=str(free_port()),
            KUBECONFIG=str(self.root / "kubeconfig"),
            TIMEOUT_S="0",
            **environ,
        )

    def built(self) -> list[dict[str, object]]:
        """What `kubectl apply -k` was given, as the real kustomize builds it."""
        return [it for it in yaml.safe_load_all((self.root / "built").read_text()) if it]


@pytest.fixture
def applied(tmp_path: Path) -> Applied:
    machine = Applied(tmp_path)
    outputs = {
        "region": "eu-west-1",
        "registry": REGISTRY,
        "control_plane": "i-master",
        "page_node": "i-worker",
        "kubeconfig": "/llama/kubeconfig",
        "gpu_workers": 1,
    }
    machine.command("terraform", f"echo '{json.dumps(outputs)}'")
    machine.command(
        "aws",
        f'case "$*" in *get-parameter*) echo "{PUBLISHED}" ;; *start-session*) {FORWARD} ;; esac',
    )
    machine.command("session-manager-plugin")
    machine.command("curl", 'echo \'data: {"delta":"Ada"}\'')
    real = shutil.which("kubectl")
    machine.command(
        "kubectl",
        f'case "$*" in\n*"get nodes"*) echo node/llama-gpu-worker ;;\n*allocatable*) echo 1 ;;\n'
        f'"apply -k "*) {real} kustomize "$3" >{tmp_path}/built ;;\n'
        f'*"create secret"*) {real} "$@" ;;\n*"-f -") cat >{tmp_path}/secret ;;\nesac',
    )
    return machine


def test_a_dry_run_reaches_the_first_token_and_calls_nothing(applied: Applied) -> None:
    """Without a state, a cluster or credentials: the order of what would be done."""
    applied.command("terraform", "exit 1")

    done = applied.deploy("--dry-run")

    assert done.returncode == 0, done.stderr
    steps = (
        "get-parameter",
        "portNumber=6443",
        "device-plugin",
        "apply -k",
        "deployment/chat ",
        "curl",
    )
    places = [done.stdout.index(step) for step in steps]
    assert places == sorted(places)
    assert done.stdout.endswith("done\n")
    assert {call.split()[0] for call in applied.calls} == {"terraform"}


@pytest.mark.parametrize("shape", ["single", "replicated"])
def test_every_image_comes_from_the_registry(applied: Applied, shape: str) -> None:
    """Of the account that the cluster is in, with a token that is fetched there and then."""
    done = applied.deploy(shape, VERSION="1.2.3")

    assert done.returncode == 0, done.stderr
    text = (applied.root / "built").read_text()
    images = {line.split("image: ")[1] for line in text.splitlines() if "image: " in line}
    ours = {image for image in images if "servekit" in image}
    assert ours
    assert all(image.startswith(f"{REGISTRY}/servekit/") for image in ours)
    assert all(image.endswith(":1.2.3") for image in ours)
    (ecr,) = [
        it for it in applied.built() if str(it["metadata"]).find("'ecr-") > 0 and "data" in it
    ]
    assert ecr["data"] == {"AWS_REGION": "eu-west-1", "REGISTRY": REGISTRY}
    job = "kubectl -n ecr-credentials create job --from=cronjob/ecr-credentials first"
    assert job in applied.calls


def test_the_first_token_is_shown(applied: Applied) -> None:
    """By the page's own route, through a forward that opens nothing to the outside."""
    done = applied.deploy()

    assert done.returncode == 0, done.stderr
    assert '{"delta":"Ada"}' in done.stdout
    asked = next(call for call in applied.calls if call.startswith("curl"))
    assert asked.endswith("/api/chat")
    sessions = [call for call in applied.calls if "start-session" in call]
    assert ["i-master" in sessions[0], "i-worker" in sessions[1]] == [True, True]


def test_the_access_is_for_this_user_alone(applied: Applied) -> None:
    """An administrator's kubeconfig, and a token that no process list shows."""
    done = applied.deploy(HF_TOKEN="hf_secret")  # noqa: S106

    assert done.returncode == 0, done.stderr
    assert (applied.root / "kubeconfig").stat().st_mode & 0o77 == 0
    assert not [call for call in applied.calls if "hf_secret" in call]
    assert "aGZfc2VjcmV0" in (applied.root / "secret").read_text()


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("terraform", "echo '{}'", "there is no applied cluster"),
        ("aws", "echo pending", "the control plane does not come up"),
        ("kubectl", ":", "the GPU workers do not join"),
    ],
)
def test_what_is_missing_is_named(applied: Applied, name: str, body: str, message: str) -> None:
    """And nothing is applied after it."""
    if name == "kubectl":
        applied.command("kubectl")
    else:
        applied.command(name, body)

    done = applied.deploy()

    assert done.returncode == 1
    assert message in done.stderr
    assert not (applied.root / "built").exists()


def test_images_are_pushed_by_version() -> None:
    """To the repositories that the manifests name."""
    done = subprocess.run(  # noqa: S603
        [PUSH, "--dry-run"],
        env={"PATH": "/usr/bin:/bin", "REGISTRY": REGISTRY, "VERSION": "1.2.3"},
        capture_output=True,
        text=True,
        check=True,
    )

    pushed = {line.split()[-1] for line in done.stdout.splitlines() if "docker push" in line}
    names = ("chat", "chat_backend", "managed_lb", "model_server")
    assert pushed == {f"{REGISTRY}/servekit/{name}:1.2.3" for name in names}


def test_a_registry_that_is_none_is_refused() -> None:
    """Before anything is built for it."""
    done = subprocess.run(  # noqa: S603
        [PUSH],
        env={"PATH": "/usr/bin:/bin", "REGISTRY": "docker.io"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert "REGISTRY is 'docker.io'" in done.stderr


@needs_shellcheck
def test_the_scripts_are_clean() -> None:
    """By shellcheck."""
    lint([DEPLOY, PUSH])
