"""The Cloud Run service, as the Knative YAML that `gcloud run services replace` takes.  Pure.

Numbers are the seed's: one L4, one request at a time, 1 to 10 instances, ten minutes to start.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from servekit.errors.tree import SettingInvalid

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
    """
    pairs = [text.partition("=") for text in texts]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise SettingInvalid(f"--env {name!r} is not NAME=VALUE")
        if name in _INSTEAD:
            raise SettingInvalid(f"--env {name} is not for a manifest; {_INSTEAD[name]}")
    return {name: value for name, _, value in pairs}


_INSTEAD = {
    "HF_TOKEN": "the model is in the image, and needs none",
    "VLLM_API_KEY": "keep it in Secret Manager, and leave the callers to IAM",
    "PORT": "Cloud Run sets it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudRunService:
    """One service.

    Attributes:
        image: with its tag or digest.
        concurrency: requests that one instance is given at a time.
        timeout_s: of one request.
        variables: of the container, besides the image's own.
        compile_cache_bucket: mounted at /compile-cache where one is named.
        service_account: that it runs as; the project's default if empty.
    """

    image: str
    name: str = NAME
    cpu: int = 8
    memory: str = "32Gi"
    gpu: str = GPU
    timeout_s: int = 600
    concurrency: int = CONCURRENCY
    min_instances: int = MIN_INSTANCES
    max_instances: int = MAX_INSTANCES
    variables: Mapping[str, str] = field(default_factory=dict)
    compile_cache_bucket: str = ""
    service_account: str = ""

    def __post_init__(self) -> None:
        if self.min_instances > self.max_instances:
            raise SettingInvalid(
                f"min_instances is {self.min_instances}, above max_instances {self.max_instances}"
            )

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
            "resources": {
                "limits": {"cpu": str(self.cpu), "memory": self.memory, "nvidia.com/gpu": "1"}
            },
            # 60 x 10 s; the container says why after 570 s (STARTUP_TIMEOUT_S).
            "startupProbe": {
                "httpGet": {"path": "/health", "port": PORT},
                "initialDelaySeconds": 10,
                "periodSeconds": 10,
                "timeoutSeconds": 5,
                "failureThreshold": 60,
            },
        }
        if self.variables:
            variables = sorted(self.variables.items())
            container["env"] = [{"name": name, "value": value} for name, value in variables]
        if self.compile_cache_bucket:
            container["volumeMounts"] = [{"name": "compile-cache", "mountPath": "/compile-cache"}]
        return container
