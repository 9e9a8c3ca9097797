"""What is deployed, held to Google's own schemas."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloudrun.service import CloudRunService, read_secrets, read_variables
from servekit.errors.tree import SettingInvalid
from tests.cloudrun.discovery import problems

FOLDER = Path(__file__).parents[2] / "src/docker/cloudrun"

WHOLE = CloudRunService(
    image="us-central1-docker.pkg.dev/p/r/i@sha256:0",
    variables={"OPTIMIZATION_LEVEL": "2"},
    secrets={"VLLM_API_KEY": "vllm-key:latest"},
    compile_cache_bucket="caches",
    service_account="vllm@p.iam.gserviceaccount.com",
)


@pytest.fixture(name="build")
def _build() -> Any:
    return yaml.safe_load((FOLDER / "cloudbuild.yaml").read_text())


def _revision(deployment: CloudRunService) -> Any:
    return deployment.to_service()["spec"]["template"]["spec"]


def test_service_is_what_cloud_run_takes() -> None:
    """Every field is in the v1 schema, in its type; with everything set, and with nothing."""
    for deployment in (WHOLE, CloudRunService(image="i")):
        assert problems("run.v1", "Service", yaml.safe_load(deployment.to_yaml())) == []


def test_schema_check_finds_what_is_wrong() -> None:
    """A misspelled field and a wrong type do not pass."""
    service = WHOLE.to_service()
    service["spec"]["template"]["spec"]["containerConcurency"] = 1
    service["spec"]["template"]["spec"]["timeoutSeconds"] = "600"

    assert len(problems("run.v1", "Service", service)) == 2


def test_service_has_the_seeds_numbers() -> None:
    """One L4 with 8 CPUs and 32 GiB, one request at a time, 1 to 10 instances, 60 x 10 s."""
    revision = _revision(CloudRunService(image="i"))
    container = revision["containers"][0]
    annotations = CloudRunService(image="i").to_service()["spec"]["template"]["metadata"][
        "annotations"
    ]

    assert container["resources"]["limits"] == {
        "cpu": "8",
        "memory": "32Gi",
        "nvidia.com/gpu": "1",
    }
    assert revision["containerConcurrency"] == 1
    assert revision["timeoutSeconds"] == 600
    assert revision["nodeSelector"] == {"run.googleapis.com/accelerator": "nvidia-l4"}
    assert container["startupProbe"] == {
        "httpGet": {"path": "/health", "port": 8000},
        "initialDelaySeconds": 10,
        "periodSeconds": 10,
        "timeoutSeconds": 5,
        "failureThreshold": 60,
    }
    assert annotations["autoscaling.knative.dev/minScale"] == "1"
    assert annotations["autoscaling.knative.dev/maxScale"] == "10"
    assert annotations["run.googleapis.com/startup-cpu-boost"] == "true"
    assert annotations["run.googleapis.com/execution-environment"] == "gen2"


def test_mounted_bucket_is_where_the_container_looks() -> None:
    """COMPILE_CACHE is /compile-cache unless it is set."""
    revision = _revision(WHOLE)

    assert revision["volumes"][0]["csi"]["volumeAttributes"] == {"bucketName": "caches"}
    assert revision["containers"][0]["volumeMounts"][0]["mountPath"] == "/compile-cache"


@pytest.mark.parametrize(
    "text",
    [
        *("HF_TOKEN=s3cret-x", "VLLM_API_KEY=s3cret-x", "AWS_SECRET_ACCESS_KEY=s3cret-x"),
        *("DB_PASSWORD=s3cret-x", "GITHUB_TOKEN=s3cret-x", "OTLP=http://u:s3cret-x@host"),
        "NOTE=hf_s3cretAbCdEfGhIjKlMnOpQrStUvWxYz0123",
        "ENGINE_ARGS=--seed 7 --api-key s3cret-x",
        *("PORT=1", "A", "=b", "s3cret-x", "a b=c"),
    ],
)
def test_manifest_takes_no_secret_and_no_nonsense(text: str) -> None:
    """It lies in logs and in version control; and the refusal does not show it either."""
    with pytest.raises(SettingInvalid) as refused:
        read_variables([text])

    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("text", ["MAX_TOKENS=8", "ENGINE_ARGS=--seed 7", "A=b=c", "B="])
def test_ordinary_variables_are_taken(text: str) -> None:
    """A word such as token in a name makes no secret of a number."""
    name, _, value = text.partition("=")

    assert read_variables([text]) == {name: value}


def test_secrets_are_named_and_never_written() -> None:
    """Cloud Run reads them from Secret Manager, at the version that is named."""
    assert read_secrets(["A=key", "B=key:7"]) == {"A": "key:latest", "B": "key:7"}
    (variable,) = [
        one for one in _revision(WHOLE)["containers"][0]["env"] if one["name"] == "VLLM_API_KEY"
    ]

    assert variable["valueFrom"] == {"secretKeyRef": {"name": "vllm-key", "key": "latest"}}
    for text in ("A=not a name", "A=k:v1", "A", "A=x.y"):
        with pytest.raises(SettingInvalid):
            read_secrets([text])


@pytest.mark.parametrize(
    ("gpu", "cpu", "memory", "arch"),
    [("nvidia-l4", "8", "32Gi", "8.9"), ("nvidia-rtx-pro-6000", "20", "80Gi", "12.0")],
)
def test_hardware_follows_from_the_gpu(gpu: str, cpu: str, memory: str, arch: str) -> None:
    """CPUs, memory, and the architecture that kernels are compiled for."""
    container = _revision(CloudRunService(image="i", gpu=gpu))["containers"][0]

    assert container["resources"]["limits"] == {"cpu": cpu, "memory": memory, "nvidia.com/gpu": "1"}
    assert {"name": "TORCH_CUDA_ARCH_LIST", "value": arch} in container["env"]


@pytest.mark.parametrize(
    "said", [{"gpu": "nvidia-h100"}, {"cpu": 2}, {"gpu": "nvidia-rtx-pro-6000", "memory_gib": 32}]
)
def test_hardware_that_cloud_run_has_not_is_refused(said: dict[str, Any]) -> None:
    """With what it has."""
    with pytest.raises(SettingInvalid, match=r"nvidia-l4|needs \d+ or more"):
        CloudRunService(image="i", **said)


def test_instances_that_contradict_each_other_are_refused() -> None:
    """Cloud Run would say so after the build."""
    with pytest.raises(SettingInvalid, match="min_instances is 11"):
        CloudRunService(image="i", min_instances=11)


def test_build_is_what_cloud_build_takes(build: Any) -> None:
    """Every field is in the v1 schema, in its type."""
    assert problems("cloudbuild.v1", "Build", build) == []


def test_build_pushes_before_it_deploys_and_tests_last(build: Any) -> None:
    """The seed deployed an image that was not there yet."""
    order = [step["id"] for step in build["steps"]]

    assert order == ["package", "build", "push", "manifest", "deploy", "test"]


def test_token_reaches_the_build_step_only(build: Any) -> None:
    """As a BuildKit secret from Secret Manager: no argument, no substitution."""
    with_token = [step["id"] for step in build["steps"] if "HF_TOKEN" in json.dumps(step)]
    step = next(step for step in build["steps"] if step["id"] == "build")

    assert with_token == ["build"]
    assert step["secretEnv"] == ["HF_TOKEN"]
    assert "--secret=id=HF_TOKEN,env=HF_TOKEN" in step["args"]
    assert not any("TOKEN" in name for name in build["substitutions"])
    assert [arg for arg in step["args"] if arg.startswith("--build-arg") and "TOKEN" in arg] == []


def test_nobody_is_let_in_unless_asked_for(build: Any) -> None:
    """allUsers may call the service where _ALLOW_UNAUTHENTICATED is yes, and it is not."""
    deploy = next(step for step in build["steps"] if step["id"] == "deploy")["args"][-1]

    assert build["substitutions"]["_ALLOW_UNAUTHENTICATED"] == "no"
    assert deploy.index("== yes") < deploy.index("allUsers")


def test_image_and_build_agree_on_the_model(build: Any) -> None:
    """The Dockerfile's defaults are those of the pipeline."""
    dockerfile = (FOLDER / "Dockerfile").read_text()

    for name in ("BASE_IMAGE", "MODEL_NAME", "MODEL_REVISION", "TORCH_CUDA_ARCH_LIST"):
        assert f"ARG {name}={build['substitutions'][f'_{name}']}" in dockerfile


@pytest.mark.parametrize("pair", ["_HF_TOKEN=hf_abc", "REGION=x", "nonsense"])
def test_deploy_script_takes_no_secret_and_no_nonsense(pair: str) -> None:
    """It ends before gcloud is called."""
    run = subprocess.run(  # noqa: S603
        (FOLDER / "deploy.sh", pair), capture_output=True, text=True, check=False
    )

    assert run.returncode == 2
    assert run.stderr.startswith(f"deploy: {pair}")
