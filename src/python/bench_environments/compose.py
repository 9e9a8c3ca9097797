"""A deployment as a Compose file.  Pure."""

from typing import Any

import msgspec

from bench_environments.deployment import FleetDeployment, Pod
from bench_environments.engines import start_of

LABEL = "io.servekit"

# Loopback by default: engines and load balancers have no authentication.
_ADDRESS = "${BIND_ADDRESS:-127.0.0.1}"

# What one engine logs in hours; the rest of the disk is for models.
_LOGGING = {"driver": "json-file", "options": {"max-size": "50m", "max-file": "2"}}


def compose_text(deployment: FleetDeployment) -> str:
    """Return the file, with a head that says where it comes from."""
    body = msgspec.yaml.encode(compose_file(deployment)).decode()
    return (
        f"# The {deployment.environment.name} environment, of fleet {deployment.fleet_name} on "
        f"{deployment.engine}.\n"
        "# Made by `./pants run src/python/bench_environments -- generate`: change the fleet file, "
        "not this.\n" + body
    )


def compose_file(deployment: FleetDeployment) -> dict[str, Any]:
    """Return the file's content: an engine per replica, and the load balancer."""
    pods = {pod.service: _pod(deployment, pod) for pod in deployment.pods}
    return {"services": {**pods, deployment.environment.balancer: _balancer(deployment)}}


def labels(deployment: FleetDeployment, port: int, gpus: tuple[int, ...] = ()) -> dict[str, str]:
    """Return what a container says of itself, so that no record is kept elsewhere."""
    return {
        f"{LABEL}.environment": deployment.environment.name,
        f"{LABEL}.fleet": deployment.fleet_name,
        f"{LABEL}.engine": deployment.engine.value,
        f"{LABEL}.port": str(port),
        f"{LABEL}.gpus": ",".join(map(str, gpus)),
    }


def _pod(deployment: FleetDeployment, pod: Pod) -> dict[str, Any]:
    gpus = pod.replica.gpus if deployment.uses_gpus else ()
    before = deployment.before(pod)
    after = {"depends_on": {before.service: {"condition": "service_healthy"}}} if before else {}
    return {
        "container_name": pod.container,
        **start_of(deployment, pod),
        "ports": [f"{_ADDRESS}:{pod.published}:{pod.listens}"],
        "labels": labels(deployment, pod.published, gpus),
        **after,
        **_common("30s"),
    }


def balancer_container(deployment: FleetDeployment) -> str:
    return f"{deployment.environment.name}-{deployment.environment.balancer}"


def _balancer(deployment: FleetDeployment) -> dict[str, Any]:
    environment = deployment.environment
    inside = environment.port
    # /health says that it runs; this, that it has a replica to send requests to.
    ready = f"http://127.0.0.1:{inside}/readyz"
    look = f"import urllib.request as r; r.urlopen('{ready}', timeout=2)"
    variable = f"{environment.name.upper()}_LB_IMAGE"
    return {
        "container_name": balancer_container(deployment),
        "image": f"${{{variable}:-{environment.image}:latest}}",
        "environment": {
            "VLLM_ENDPOINTS": deployment.endpoints,
            "METRICS_POLL_INTERVAL": "${METRICS_POLL_INTERVAL:-0.2}",
        },
        "healthcheck": {
            "test": ["CMD", "/app/bin/python", "-c", look],
            "interval": "5s",
            "timeout": "5s",
            "retries": 3,
            # As long as an engine may take.
            "start_period": "40m",
        },
        "ports": [f"{_ADDRESS}:{deployment.port}:{inside}"],
        "read_only": True,
        "labels": labels(deployment, deployment.port),
        **_common("40s"),
    }


def _common(grace: str) -> dict[str, Any]:
    return {
        # One that died in a benchmark must not come back unseen.
        "restart": "no",
        "stop_grace_period": grace,
        "security_opt": ["no-new-privileges:true"],
        "logging": _LOGGING,
    }
