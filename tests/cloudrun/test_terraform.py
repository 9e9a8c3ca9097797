"""The Terraform module describes the service that `cloudrun manifest` prints."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cloudrun.gpus import GPUS
from cloudrun.service import CloudRunService
from tests.terraform.offline import MISSING
from tests.terraform.plan import PlanRefused, plan_of

MODULE = Path("src/terraform/cloud_run")
IMAGE = "us-central1-docker.pkg.dev/example-project/servekit/cloudrun:1"
ACCOUNT = "run-vllm@example-project.iam.gserviceaccount.com"

needs_terraform = pytest.mark.skipif(shutil.which("terraform") is None, reason=MISSING)

# What differs from the defaults, in the words of both.
CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "a large GPU": {"gpu": "nvidia-rtx-pro-6000", "concurrency": 64, "name": "big"},
    "all of it": {
        "gpu": "nvidia-l4",
        "cpu": 4,
        "memory_gib": 16,
        "concurrency": 8,
        "min_instances": 0,
        "max_instances": 3,
        "variables": {"OPTIMIZATION_LEVEL": "2", "MAX_NUM_SEQS": "16"},
        "secrets": {"VLLM_API_KEY": "vllm-key:latest", "HF_TOKEN": "hub:7"},
        "compile_cache_bucket": "caches",
    },
}


def _probe(probe: dict[str, Any]) -> dict[str, Any]:
    get = probe["httpGet"]
    return {
        "path": get["path"],
        "port": get["port"],
        "delay_s": probe.get("initialDelaySeconds", 0),
        "period_s": probe["periodSeconds"],
        "timeout_s": probe["timeoutSeconds"],
        "failures": probe["failureThreshold"],
    }


def _of_manifest(service: dict[str, Any]) -> dict[str, Any]:
    """Every field of the Knative service, by a name of its own."""
    template = service["spec"]["template"]
    notes, spec = dict(template["metadata"]["annotations"]), template["spec"]
    (container,) = spec["containers"]
    (port,) = container["ports"]
    found = {
        "name": service["metadata"]["name"],
        "launch_stage": service["metadata"]["annotations"]["run.googleapis.com/launch-stage"],
        "min": int(notes.pop("autoscaling.knative.dev/minScale")),
        "max": int(notes.pop("autoscaling.knative.dev/maxScale")),
        "cpu_idle": notes.pop("run.googleapis.com/cpu-throttling") == "true",
        "boost": notes.pop("run.googleapis.com/startup-cpu-boost") == "true",
        "generation": notes.pop("run.googleapis.com/execution-environment"),
        "one_zone": notes.pop("run.googleapis.com/gpu-zonal-redundancy-disabled") == "true",
        "concurrency": spec["containerConcurrency"],
        "timeout": f"{spec['timeoutSeconds']}s",
        "gpu": spec["nodeSelector"]["run.googleapis.com/accelerator"],
        "image": container["image"],
        "port": (port["name"], port["containerPort"]),
        "limits": container["resources"]["limits"],
        "startup": _probe(container["startupProbe"]),
        "liveness": _probe(container["livenessProbe"]),
        "env": {one["name"]: one.get("value") or _secret_of(one) for one in container["env"]},
        "mounts": [(one["name"], one["mountPath"]) for one in container.get("volumeMounts", [])],
        "buckets": [
            (one["name"], one["csi"]["volumeAttributes"]["bucketName"], one["csi"]["readOnly"])
            for one in spec.get("volumes", [])
        ],
    }
    assert notes == {}, "an annotation that this test does not compare"
    return found


def _secret_of(variable: dict[str, Any]) -> tuple[str, str]:
    where = variable["valueFrom"]["secretKeyRef"]
    return where["name"], where["key"]


def _planned_probe(probe: dict[str, Any]) -> dict[str, Any]:
    (get,) = probe["http_get"]
    return {
        "path": get["path"],
        "port": get["port"],
        "delay_s": probe.get("initial_delay_seconds") or 0,
        "period_s": probe["period_seconds"],
        "timeout_s": probe["timeout_seconds"],
        "failures": probe["failure_threshold"],
    }


def _planned_value(variable: dict[str, Any]) -> object:
    if not variable.get("value_source"):
        return variable["value"]
    (reference,) = variable["value_source"][0]["secret_key_ref"]
    return reference["secret"], reference["version"]


def _of_plan(service: dict[str, Any]) -> dict[str, Any]:
    """The same of a planned google_cloud_run_v2_service."""
    (template,) = service["template"]
    (container,) = template["containers"]
    (resources,), (port,) = container["resources"], container["ports"]
    (scaling,), (selector,) = template["scaling"], template["node_selector"]
    (startup,), (liveness,) = container["startup_probe"], container["liveness_probe"]
    generation = template["execution_environment"].removeprefix("EXECUTION_ENVIRONMENT_").lower()
    return {
        "name": service["name"],
        "launch_stage": service["launch_stage"],
        "min": scaling["min_instance_count"],
        "max": scaling["max_instance_count"],
        "cpu_idle": resources["cpu_idle"],
        "boost": resources["startup_cpu_boost"],
        "generation": generation,
        "one_zone": template["gpu_zonal_redundancy_disabled"],
        "concurrency": template["max_instance_request_concurrency"],
        "timeout": template["timeout"],
        "gpu": selector["accelerator"],
        "image": container["image"],
        "port": (port["name"], port["container_port"]),
        "limits": resources["limits"],
        "startup": _planned_probe(startup),
        "liveness": _planned_probe(liveness),
        "env": {one["name"]: _planned_value(one) for one in container["env"]},
        "mounts": [(one["name"], one["mount_path"]) for one in container["volume_mounts"]],
        "buckets": [
            (one["name"], one["gcs"][0]["bucket"], one["gcs"][0]["read_only"])
            for one in template["volumes"]
        ],
    }


@needs_terraform
@pytest.mark.parametrize("case", CASES)
def test_module_and_manifest_describe_one_service(case: str) -> None:
    """Field by field, with the defaults of each, and with everything set."""
    said = CASES[case]
    printed = CloudRunService(image=IMAGE, service_account=ACCOUNT, **said).to_service()

    (planned,) = plan_of(MODULE, image=IMAGE, **said).of("google_cloud_run_v2_service")

    assert _of_plan(planned) == _of_manifest(printed)


@needs_terraform
def test_service_may_read_its_secrets_and_its_bucket_only() -> None:
    """As an account of its own."""
    plan = plan_of(MODULE, **CASES["all of it"])

    secrets = plan.of("google_secret_manager_secret_iam_member")
    buckets = plan.of("google_storage_bucket_iam_member")
    assert {one["secret_id"] for one in secrets} == {"vllm-key", "hub"}
    assert {(one["bucket"], one["role"]) for one in buckets} == {
        ("caches", "roles/storage.objectViewer")
    }
    assert plan.of("google_cloud_run_v2_service_iam_member") == []


@needs_terraform
@pytest.mark.parametrize(
    "said",
    [
        {"gpu": "nvidia-h100"},
        {"variables": {"HF_TOKEN": "hf_x"}},
        {"secrets": {"HF_TOKEN": "hf_looksLikeAToken"}},
        {"min_instances": 4, "max_instances": 3},
        {"gpu": "nvidia-rtx-pro-6000", "memory_gib": 32},
        {"concurrency": 0},
    ],
)
def test_what_the_manifest_refuses_the_module_refuses(said: dict[str, Any]) -> None:
    """Before anything is made."""
    with pytest.raises(PlanRefused):
        plan_of(MODULE, **said)


def test_both_read_one_table() -> None:
    """gpus.json is written from `cloudrun.gpus`."""
    table = {
        gpu.name: {
            "arch": str(gpu.arch),
            "cpu": gpu.cpu,
            "memory_gib": gpu.memory_gib,
            "min_cpu": gpu.min_cpu,
            "min_memory_gib": gpu.min_memory_gib,
        }
        for gpu in GPUS.values()
    }

    assert json.loads((MODULE / "gpus.json").read_text()) == table
