"""The Cloud Run service, as the Knative YAML that `gcloud run services replace` takes.  Pure.

Numbers are the seed's: one L4, one request at a time, 1 to 10 instances, ten minutes to start.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from cloudrun.gpus import CloudRunGpu, find_gpu
from servekit.errors.tree import SettingInvalid
from servekit.secrets.masking import masked
from servekit.secrets.names import is_secret_name

NAME = "vllm-gemma-3-1b-it"
PORT = 8000
GPU = "nvidia-l4"
CONCURRENCY = 1
MIN_INSTANCES = 1
MAX_INSTANCES = 10


def read_variables(texts: Sequence[str]) -> dict[str, str]:
    """Return what `NAME=VALUE` texts say.

    Raises:
        SettingInvalid: a text is none, or gives a secret away: the manifest is no place for one.
            The value is not shown.
    """
    pairs = _pairs("--env", texts)
    for name, value in pairs.items():
        if name in _INSTEAD:
            raise SettingInvalid(f"--env {name} is not for a manifest; {_INSTEAD[name]}")
        if is_secret_name(name) or masked(f"{name}={value}") != f"{name}={value}":
            raise SettingInvalid(
                f"--env {name} holds a secret, which a manifest would show; keep it in Secret "
                f"Manager, and use --secret {name}=SECRET"
            )
    return pairs


def read_secrets(texts: Sequence[str]) -> dict[str, str]:
    """Return what `NAME=SECRET` or `NAME=SECRET:VERSION` texts say, with the version.

    Raises:
        SettingInvalid: a text is none, or names no secret of Secret Manager.
    """
    pairs = _pairs("--secret", texts)
    for name, secret in pairs.items():
        if not _SECRET.fullmatch(secret):
            raise SettingInvalid(
                f"--secret {name} does not name a secret; write {name}=SECRET or {name}=SECRET:7, "
                "and never its value"
            )
    return {name: secret if ":" in secret else f"{secret}:latest" for name, secret in pairs.items()}


def _pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for name, equals, _ in pairs:
        if not equals or not _VARIABLE.fullmatch(name):
            # Whatever stands before the = may be a value in the wrong place.
            raise SettingInvalid(f"{option} takes NAME=VALUE, with a name such as MAX_MODEL_LEN")
    return {name: value for name, _, value in pairs}


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"[A-Za-z0-9_-]{1,255}(:(latest|[1-9][0-9]*))?")

_INSTEAD = {
    "HF_TOKEN": "the model is in the image; for a download at start, use --secret HF_TOKEN=SECRET",
    "VLLM_API_KEY": "use --secret VLLM_API_KEY=SECRET, or leave the callers to IAM",
    "PORT": "Cloud Run sets it",
}


@dataclass(frozen=True, slots=True)
class ProbeTimes:
    """How a probe asks (seconds), and how many refusals in a row it takes."""

    period_s: int
    timeout_s: int
    failures: int


# 60 x 10 s; the container says why after 570 s (STARTUP_TIMEOUT_S).
STARTUP_PROBE = ProbeTimes(period_s=10, timeout_s=5, failures=60)
# The container ends by itself when its engine is dead; this is for a front that does not answer.
LIVENESS_PROBE = ProbeTimes(period_s=30, timeout_s=5, failures=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudRunService:
    """One service.

    Attributes:
        image: with its tag or digest.
        concurrency: requests that one instance is given at a time.
        timeout_s: of one request.
        gpu: a type that Cloud Run has; CPU, memory and the probe's time follow from it.
        variables: of the container, besides the image's own.
        secrets: `SECRET:VERSION` of Secret Manager by variable.
        compile_cache_bucket: mounted at /compile-cache where one is named.
        service_account: that it runs as; the project's default if empty.
    """

    image: str
    name: str = NAME
    gpu: str = GPU
    cpu: int | None = None
    memory_gib: int | None = None
    timeout_s: int = 600
    concurrency: int = CONCURRENCY
    min_instances: int = MIN_INSTANCES
    max_instances: int = MAX_INSTANCES
    variables: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    compile_cache_bucket: str = ""
    service_account: str = ""

    def __post_init__(self) -> None:
        self.hardware.check(self.cpu, self.memory_gib)
        if self.min_instances > self.max_instances:
            raise SettingInvalid(
                f"min_instances is {self.min_instances}, above max_instances {self.max_instances}"
            )

    @property
    def hardware(self) -> CloudRunGpu:
        return find_gpu(self.gpu)

    @property
    def limits(self) -> dict[str, str]:
        """What one instance has."""
        gpu = self.hardware
        return {
            "cpu": str(self.cpu or gpu.cpu),
            "memory": f"{self.memory_gib or gpu.memory_gib}Gi",
            "nvidia.com/gpu": "1",
        }

    @property
    def environment(self) -> dict[str, str]:
        """The variables: kernels are compiled for the GPU that is deployed."""
        return {"TORCH_CUDA_ARCH_LIST": str(self.hardware.arch), **self.variables}

    def to_yaml(self) -> str:
        """Return the service as YAML.  JSON is YAML; this form diffs well and needs no library."""
        return msgspec.json.format(msgspec.json.encode(self.to_service()), indent=2).decode() + "\n"

    def to_service(self) -> dict[str, Any]:
        """Return the service as `run.googleapis.com/v1` describes it."""
        return {
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Service",
            "metadata": {
                "name": self.name,
                "annotations": {"run.googleapis.com/launch-stage": "GA"},
            },
            "spec": {
                "template": {
                    "metadata": {"annotations": self._annotations()},
                    "spec": self._revision(),
                }
            },
        }

    def _annotations(self) -> dict[str, str]:
        return {
            "autoscaling.knative.dev/minScale": str(self.min_instances),
            "autoscaling.knative.dev/maxScale": str(self.max_instances),
            # GPUs are billed by the instance, so its CPU is there between requests as well.
            "run.googleapis.com/cpu-throttling": "false",
            "run.googleapis.com/startup-cpu-boost": "true",
            "run.googleapis.com/execution-environment": "gen2",
            "run.googleapis.com/gpu-zonal-redundancy-disabled": "true",
        }

    def _revision(self) -> dict[str, Any]:
        revision: dict[str, Any] = {
            "containerConcurrency": self.concurrency,
            "timeoutSeconds": self.timeout_s,
            "nodeSelector": {"run.googleapis.com/accelerator": self.gpu},
            "containers": [self._container()],
        }
        if self.service_account:
            revision["serviceAccountName"] = self.service_account
        if self.compile_cache_bucket:
            revision["volumes"] = [
                {
                    "name": "compile-cache",
                    "csi": {
                        "driver": "gcsfuse.run.googleapis.com",
                        "readOnly": True,
                        "volumeAttributes": {"bucketName": self.compile_cache_bucket},
                    },
                }
            ]
        return revision

    def _container(self) -> dict[str, Any]:
        container: dict[str, Any] = {
            "image": self.image,
            "ports": [{"name": "http1", "containerPort": PORT}],
            "resources": {"limits": self.limits},
            "startupProbe": {**_probe(STARTUP_PROBE), "initialDelaySeconds": 10},
            "livenessProbe": _probe(LIVENESS_PROBE),
        }
        container["env"] = [
            *({"name": name, "value": value} for name, value in sorted(self.environment.items())),
            *(_from_secret(name, secret) for name, secret in sorted(self.secrets.items())),
        ]
        if self.compile_cache_bucket:
            container["volumeMounts"] = [{"name": "compile-cache", "mountPath": "/compile-cache"}]
        return container


def _probe(times: ProbeTimes) -> dict[str, Any]:
    return {
        "httpGet": {"path": "/health", "port": PORT},
        "periodSeconds": times.period_s,
        "timeoutSeconds": times.timeout_s,
        "failureThreshold": times.failures,
    }


def _from_secret(name: str, secret: str) -> dict[str, Any]:
    where, _, version = secret.partition(":")
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": where, "key": version}}}
