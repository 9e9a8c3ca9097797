"""Every flow that the platform needs, from what is built and what is installed beside it.  Pure."""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence

from tests.kubernetes.flows import AddressEnd, Flow, NodeEnd, PodEnd
from tests.kubernetes.manifests import Manifest

MASTER, WORKER, GPU_WORKER = "control-plane", "worker", "gpu-worker"
EVERYWHERE = (MASTER, WORKER, GPU_WORKER)

NODE = NodeEnd("every node", EVERYWHERE)
API_SERVER = NodeEnd("the API server", (MASTER,))
CONTROL_PLANE = NodeEnd("the control plane", (MASTER,))
INTERNET = AddressEnd("the internet", "203.0.113.9")


def installed(name: str, namespace: str, port: int, *roles: str) -> PodEnd:
    """A pod that is not of our manifests: it has no policy, and its name is its label."""
    chosen = roles or (WORKER,)
    return PodEnd(name, namespace, {"app.kubernetes.io/name": name}, chosen, {"port": port})


DNS = installed("coredns", "kube-system", 53, MASTER, WORKER)
PROMETHEUS = installed("prometheus", "monitoring", 9090)
PROMETHEUS_OPERATOR = installed("prometheus-operator", "monitoring", 10250)
GRAFANA = installed("grafana", "monitoring", 3000)
KEDA = installed("keda-operator", "keda", 9666)
KEDA_METRICS = installed("keda-metrics-apiserver", "keda", 6443)
KEDA_WEBHOOK = installed("keda-admission", "keda", 9443)
CALICO_API = installed("calico-apiserver", "calico-apiserver", 5443, MASTER, WORKER)

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet")


def pods_of(found: Sequence[Manifest], default_namespace: str) -> dict[str, PodEnd]:
    """Return our pods by the name of what runs them; the GPU's label decides where they stand."""
    pods = {}
    for manifest in found:
        if manifest["kind"] not in WORKLOADS:
            continue
        template = manifest["spec"]["template"]
        on_gpu = "nvidia.com/gpu.present" in template["spec"].get("nodeSelector", {})
        name = manifest["metadata"]["name"]
        pods[name] = PodEnd(
            name,
            manifest["metadata"].get("namespace", default_namespace),
            template["metadata"]["labels"],
            (GPU_WORKER,) if on_gpu else (WORKER,),
            {
                port["name"]: port["containerPort"]
                for container in template["spec"]["containers"]
                for port in container.get("ports", [])
            },
        )
    return pods


def needed_flows(pods: Mapping[str, PodEnd], vpc_cidr: str) -> Iterator[Flow]:
    """Give what must get through, with the pods of one shape and of the monitoring."""
    vpc = ipaddress.ip_network(vpc_cidr)
    yield from _of_nodes(AddressEnd("the VPC's resolver", str(vpc[2])))
    yield from _of_the_platform(pods, AddressEnd("a client in the VPC", str(vpc[7])))
    yield from _of_the_monitoring(pods)
    for pod in pods.values():
        yield Flow(pod, DNS, 53, "udp")
        yield Flow(pod, DNS, 53, "tcp")


def _of_nodes(resolver: AddressEnd) -> Iterator[Flow]:
    yield Flow(NODE, API_SERVER, 6443)
    yield Flow(API_SERVER, NODE, 10250)
    # Calico: routes, and what Typha passes on.
    yield Flow(NODE, NODE, 179)
    yield Flow(NODE, NODE, 5473)
    # Images, packages, SSM.
    yield Flow(NODE, INTERNET, 443)
    yield Flow(NODE, DNS, 53, "udp")
    yield Flow(DNS, resolver, 53, "udp")
    yield Flow(DNS, API_SERVER, 6443)
    # Aggregated APIs and webhooks.
    yield Flow(API_SERVER, CALICO_API, 5443)
    yield Flow(API_SERVER, PROMETHEUS_OPERATOR, 10250)
    yield Flow(API_SERVER, KEDA_METRICS, 6443)
    yield Flow(API_SERVER, KEDA_WEBHOOK, 9443)


def _of_the_platform(pods: Mapping[str, PodEnd], client: AddressEnd) -> Iterator[Flow]:
    page, backend, engine = pods["chat"], pods["chat-backend"], pods["llama-model-server"]
    yield Flow(client, page, 8080, node_port=30080)
    yield Flow(NODE, page, 8080)
    yield Flow(page, backend, 8080)
    if "managed-lb" in pods:
        yield Flow(backend, pods["managed-lb"], 8081)
        yield Flow(pods["managed-lb"], engine, 8000)
    else:
        yield Flow(backend, engine, 8000)
    yield Flow(engine, INTERNET, 443)


def _of_the_monitoring(pods: Mapping[str, PodEnd]) -> Iterator[Flow]:
    scraped = {"llama-model-server": 8000, "managed-lb": 8081, "chat-backend": 8080}
    for name, port in {**scraped, "dcgm-exporter": 9400}.items():
        if name in pods:
            yield Flow(PROMETHEUS, pods[name], port)
    yield Flow(PROMETHEUS, NODE, 9100)
    yield Flow(PROMETHEUS, NODE, 10250)
    yield Flow(PROMETHEUS, CONTROL_PLANE, 10257)
    yield Flow(PROMETHEUS, CONTROL_PLANE, 10259)
    yield Flow(PROMETHEUS, API_SERVER, 6443)
    yield Flow(GRAFANA, PROMETHEUS, 9090)
    yield Flow(KEDA, PROMETHEUS, 9090)
    yield Flow(KEDA_METRICS, KEDA, 9666)
    yield Flow(KEDA, API_SERVER, 6443)
