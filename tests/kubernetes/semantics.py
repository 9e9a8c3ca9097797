"""What a cluster would find wrong with manifests that fit their schemas.  Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.kubernetes.flows import selects
from tests.kubernetes.manifests import Manifest, bytes_of

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "CronJob")

# Kinds without a namespace.
CLUSTER_WIDE = ("Namespace", "PersistentVolume", "StorageClass")

# What other charts bring.
FOREIGN_NAMESPACES = ("monitoring", "keda", "kube-system")
FOREIGN_SERVICES = {"prometheus-operated.monitoring": {9090}}

_URL = re.compile(r"^(?:http|dns)://([a-z0-9.-]+):(\d+)")


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What the manifests are held to.

    Attributes:
        served: paths that each program answers, by container name.
        drain_s: how long each program goes on after SIGTERM, by container name.
        nodes: CPUs, bytes of memory and GPUs that a pod may ask for, by role.
    """

    served: Mapping[str, Sequence[str]]
    drain_s: Mapping[str, float]
    nodes: Mapping[str, tuple[float, int, int]]


@dataclass(frozen=True, slots=True)
class PodTemplate:
    """A pod, with whom it belongs to."""

    owner: Manifest
    template: Manifest
    namespace: str

    @property
    def name(self) -> str:
        return str(self.owner["metadata"]["name"])

    @property
    def spec(self) -> Manifest:
        spec: Manifest = self.template["spec"]
        return spec

    @property
    def labels(self) -> Mapping[str, str]:
        labels: Mapping[str, str] = self.template.get("metadata", {}).get("labels", {})
        return labels

    @property
    def containers(self) -> list[Manifest]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def ports(self) -> dict[str | int, int]:
        """Numbers by name, and by themselves."""
        numbers: dict[str | int, int] = {}
        for container in self.containers:
            for port in container.get("ports", []):
                numbers[port["containerPort"]] = port["containerPort"]
                numbers[port.get("name", "")] = port["containerPort"]
        return numbers

    def volume_names(self) -> set[str]:
        claimed = self.owner.get("spec", {}).get("volumeClaimTemplates", [])
        volumes = self.spec.get("volumes", [])
        return {it["name"] for it in volumes} | {it["metadata"]["name"] for it in claimed}


@dataclass(frozen=True, slots=True)
class RenderedWhole:
    """Everything that is applied together."""

    found: Sequence[Manifest]
    facts: ClusterFacts
    pods: list[PodTemplate] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pods", list(_pods(self.found)))

    def of(self, *kinds: str) -> list[Manifest]:
        return [it for it in self.found if it["kind"] in kinds]

    def named(self, kind: str, name: str, namespace: str) -> Manifest | None:
        return next(
            (
                it
                for it in self.of(kind)
                if it["metadata"]["name"] == name and _namespace(it) == namespace
            ),
            None,
        )

    def faults(self) -> list[str]:
        checks = (
            *(self._namespaces, self._selectors, self._services, self._ingresses),
            *(self._references, self._volumes, self._claims, self._probes, self._rbac),
            *(self._budgets, self._scaling, self._monitors, self._ends, self._fits),
            *(self._restricted, self._addresses, self._rollouts),
        )
        return [fault for check in checks for fault in check()]

    def _namespaces(self) -> Iterator[str]:
        known = {it["metadata"]["name"] for it in self.of("Namespace")} | set(FOREIGN_NAMESPACES)
        for it in self.found:
            if it["kind"] not in CLUSTER_WIDE and _namespace(it) not in known:
                yield f"{_title(it)} is in a namespace that nothing makes: {_namespace(it)!r}"

    def _selectors(self) -> Iterator[str]:
        for pod in self.pods:
            selector = pod.owner["spec"].get("selector")
            if selector and not selects(selector, pod.labels):
                yield f"{_title(pod.owner)} does not select its own pods"
        for it in self.of("NetworkPolicy"):
            if not self._chosen(it["spec"]["podSelector"], _namespace(it)):
                yield f"{_title(it)} is about no pod"

    def _chosen(self, selector: Manifest, namespace: str) -> list[PodTemplate]:
        return [p for p in self.pods if p.namespace == namespace and selects(selector, p.labels)]

    def _services(self) -> Iterator[str]:
        node_ports: set[int] = set()
        for it in self.of("Service"):
            pods = self._chosen({"matchLabels": it["spec"]["selector"]}, _namespace(it))
            if not pods:
                yield f"{_title(it)} has no pods"
            for port in it["spec"]["ports"]:
                target = port.get("targetPort", port["port"])
                if any(target not in pod.ports for pod in pods):
                    yield f"{_title(it)} leads to port {target!r}, which a pod does not have"
                taken = port.get("nodePort")
                if taken in node_ports or (taken and not 30000 <= taken <= 32767):
                    yield f"{_title(it)} cannot have the NodePort {taken}"
                node_ports |= {taken} - {None}

    def _ingresses(self) -> Iterator[str]:
        for it in self.of("Ingress"):
            for path in [p for rule in it["spec"]["rules"] for p in rule["http"]["paths"]]:
                asked = path["backend"]["service"]
                service = self.named("Service", asked["name"], _namespace(it))
                ports = service["spec"]["ports"] if service else []
                wanted = asked["port"].get("name", asked["port"].get("number"))
                if not any(wanted in (port.get("name"), port["port"]) for port in ports):
                    yield f"{_title(it)} leads to {asked['name']}:{wanted}, which does not exist"

    def _references(self) -> Iterator[str]:
        for pod in self.pods:
            for container in pod.containers:
                for kind, name, key in _referred(container):
                    target = self.named(kind, name, pod.namespace)
                    if target is None:
                        yield f"{_title(pod.owner)} reads {kind} {name}, which does not exist"
                    elif key and key not in target.get("data", {}):
                        yield f"{_title(pod.owner)} reads {name}/{key}, which does not exist"
            account = pod.spec.get("serviceAccountName", "default")
            if account != "default" and not self.named("ServiceAccount", account, pod.namespace):
                yield f"{_title(pod.owner)} runs as {account}, which does not exist"

    def _volumes(self) -> Iterator[str]:
        for pod in self.pods:
            for container in pod.containers:
                for mount in container.get("volumeMounts", []):
                    if mount["name"] not in pod.volume_names():
                        yield f"{_title(pod.owner)} mounts {mount['name']}, which is no volume"
            for volume in pod.spec.get("volumes", []):
                name = volume.get("configMap", {}).get("name")
                if name and not self.named("ConfigMap", name, pod.namespace):
                    yield f"{_title(pod.owner)} mounts ConfigMap {name}, which does not exist"
                claim = volume.get("persistentVolumeClaim", {}).get("claimName")
                if claim and not self.named("PersistentVolumeClaim", claim, pod.namespace):
                    yield f"{_title(pod.owner)} mounts the claim {claim}, which does not exist"

    def _claims(self) -> Iterator[str]:
        classes = {it["metadata"]["name"]: it for it in self.of("StorageClass")}
        for name, spec, namespace in self._all_claims():
            chosen = classes.get(spec.get("storageClassName", ""))
            if chosen is None:
                yield f"the claim {name} has no StorageClass that exists, and stays Pending"
            elif chosen["provisioner"] == "kubernetes.io/no-provisioner" and not any(
                _binds(it, name, spec, namespace) for it in self.of("PersistentVolume")
            ):
                yield f"the claim {name} has no volume that fits it, and stays Pending"

    def _all_claims(self) -> Iterator[tuple[str, Manifest, str]]:
        for it in self.of("PersistentVolumeClaim"):
            yield it["metadata"]["name"], it["spec"], _namespace(it)
        for it in self.of("StatefulSet"):
            most = max(self._most_replicas(it), it["spec"].get("replicas", 1))
            for claim in it["spec"].get("volumeClaimTemplates", []):
                for number in range(most):
                    name = f"{claim['metadata']['name']}-{it['metadata']['name']}-{number}"
                    yield name, claim["spec"], _namespace(it)

    def _most_replicas(self, workload: Manifest) -> int:
        name = workload["metadata"]["name"]
        scaled = [it["spec"] for it in self.of("ScaledObject")]
        return max(
            (it["maxReplicaCount"] for it in scaled if it["scaleTargetRef"]["name"] == name),
            default=0,
        )

    def _probes(self) -> Iterator[str]:
        for pod in self.pods:
            for container in pod.containers:
                for kind in ("readinessProbe", "livenessProbe", "startupProbe"):
                    probe = container.get(kind, {}).get("httpGet")
                    if probe and probe["port"] not in pod.ports:
                        yield f"{_title(pod.owner)}: {kind} asks port {probe['port']!r}"
                    served = self.facts.served.get(container["name"], ())
                    if probe and probe["path"] not in served:
                        yield f"{_title(pod.owner)}: {kind} asks {probe['path']}, not served"

    def _rbac(self) -> Iterator[str]:
        for it in self.of("RoleBinding"):
            role = self.named("Role", it["roleRef"]["name"], _namespace(it))
            if role is None:
                yield f"{_title(it)} is for a role that does not exist"
            for subject in it["subjects"]:
                if not self.named("ServiceAccount", subject["name"], subject["namespace"]):
                    yield f"{_title(it)} is for {subject['name']}, which does not exist"
        for pod in self.pods:
            for container in pod.containers:
                if container.get("args", [""])[0] == "apply":
                    yield from self._apply_faults(pod)
        for rule in [rule for it in self.of("Role", "ClusterRole") for rule in it["rules"]]:
            if "*" in [*rule["verbs"], *rule["resources"]]:
                yield "a role allows everything"

    def _apply_faults(self, pod: PodTemplate) -> Iterator[str]:
        """`kubectl apply --server-side` of the pods' pull Secret: a patch that may create."""
        (secret,) = {
            it["name"] for p in self.pods for it in p.spec.get("imagePullSecrets", [])
        } or {""}
        allowed = {
            verb
            for binding in self.of("RoleBinding")
            if pod.spec.get("serviceAccountName") in [it["name"] for it in binding["subjects"]]
            if (role := self.named("Role", binding["roleRef"]["name"], _namespace(binding)))
            for rule in role["rules"]
            if "secrets" in rule["resources"] and secret in rule.get("resourceNames", [secret])
            for verb in rule["verbs"]
        }
        if missing := {"create", "get", "patch"} - allowed:
            yield f"{_title(pod.owner)} may not {', '.join(sorted(missing))} the Secret {secret}"

    def _budgets(self) -> Iterator[str]:
        for it in self.of("PodDisruptionBudget"):
            pods = self._chosen(it["spec"]["selector"], _namespace(it))
            if not pods:
                yield f"{_title(it)} is about no pod"
            replicas = min((p.owner["spec"].get("replicas", 1) for p in pods), default=1)
            if (
                it["spec"].get("maxUnavailable") == 0
                or it["spec"].get("minAvailable", 0) >= replicas
            ):
                yield f"{_title(it)} lets no node be drained"

    def _scaling(self) -> Iterator[str]:
        for it in self.of("ScaledObject", "HorizontalPodAutoscaler"):
            target = it["spec"]["scaleTargetRef"]
            scaled = self.named(target["kind"], target["name"], _namespace(it))
            if scaled is None:
                yield f"{_title(it)} scales {target['name']}, which does not exist"
            elif "replicas" in scaled["spec"]:
                yield f"{_title(scaled)} has replicas, so that every apply resets its scaling"

    def _monitors(self) -> Iterator[str]:
        for it in self.of("ServiceMonitor"):
            spaces = it["spec"].get("namespaceSelector", {}).get("matchNames", [_namespace(it)])
            services = [
                service
                for service in self.of("Service")
                if _namespace(service) in spaces
                and selects(it["spec"]["selector"], service["metadata"].get("labels", {}))
            ]
            named = {port.get("name") for service in services for port in service["spec"]["ports"]}
            # The other shape's parts are monitored too.
            if services and not {end["port"] for end in it["spec"]["endpoints"]} <= named:
                yield f"{_title(it)} asks a port that its Service does not have"

    def _ends(self) -> Iterator[str]:
        for pod in self.pods:
            grace = pod.spec.get("terminationGracePeriodSeconds", 30)
            for container in pod.spec["containers"]:
                pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {})
                needed = pause.get("seconds", 0) + self.facts.drain_s.get(container["name"], 0)
                if grace < needed:
                    title = _title(pod.owner)
                    yield f"{title} is killed after {grace} s; its end takes {needed:g} s"

    def _fits(self) -> Iterator[str]:
        for pod in self.pods:
            asked = [it.get("resources", {}).get("requests", {}) for it in pod.spec["containers"]]
            gpus = sum(int(it.get("nvidia.com/gpu", 0)) for it in asked)
            on_gpu = "nvidia.com/gpu.present" in pod.spec.get("nodeSelector", {})
            cpus, memory, most_gpus = self.facts.nodes["gpu-worker" if on_gpu else "worker"]
            if sum(_cpus(it.get("cpu", "0")) for it in asked) > cpus:
                yield f"{_title(pod.owner)} asks for more CPUs than a node has"
            if sum(bytes_of(it["memory"]) for it in asked if "memory" in it) > memory:
                yield f"{_title(pod.owner)} asks for more memory than a node has"
            if gpus > most_gpus:
                yield f"{_title(pod.owner)} asks for {gpus} GPUs of a node with {most_gpus}"
            tolerated = [it.get("key") for it in pod.spec.get("tolerations", [])]
            if on_gpu and "nvidia.com/gpu" not in tolerated:
                yield f"{_title(pod.owner)} does not tolerate the taint of the nodes it asks for"

    def _restricted(self) -> Iterator[str]:
        levels = {
            it["metadata"]["name"]: it["metadata"]
            .get("labels", {})
            .get("pod-security.kubernetes.io/enforce")
            for it in self.of("Namespace")
        }
        for pod in self.pods:
            if levels.get(pod.namespace) == "restricted" and not all(_is_restricted(pod)):
                yield f"{_title(pod.owner)} is refused by the namespace's Pod Security level"

    def _addresses(self) -> Iterator[str]:
        for pod in self.pods:
            values = [
                value
                for container in pod.containers
                for value in (
                    *(it.get("value", "") for it in container.get("env", [])),
                    *container.get("args", []),
                )
            ]
            for value in values:
                if (said := _URL.match(value)) and "." not in said[1].split(".svc")[0]:
                    yield from self._address_faults(pod, said[1].split(".")[0], int(said[2]))
        for trigger in [t for it in self.of("ScaledObject") for t in it["spec"]["triggers"]]:
            said = _URL.match(trigger["metadata"]["serverAddress"])
            if not said or int(said[2]) not in FOREIGN_SERVICES.get(said[1], ()):
                yield f"autoscaling asks {trigger['metadata']['serverAddress']}"

    def _address_faults(self, pod: PodTemplate, name: str, port: int) -> Iterator[str]:
        service = self.named("Service", name, pod.namespace)
        if service is None:
            yield f"{_title(pod.owner)} asks {name}, which does not exist"
        elif port not in [it["port"] for it in service["spec"]["ports"]]:
            yield f"{_title(pod.owner)} asks {name}:{port}, a port that it does not have"

    def _rollouts(self) -> Iterator[str]:
        for pod in self.pods:
            spec = pod.owner["spec"]
            claims = [it for it in pod.spec.get("volumes", []) if "persistentVolumeClaim" in it]
            if pod.owner["kind"] == "Deployment" and claims:
                if spec.get("strategy", {}).get("type") != "Recreate":
                    yield f"{_title(pod.owner)}: a new pod waits for the old one's volume for ever"
                if spec.get("replicas", 1) > 1:
                    yield f"{_title(pod.owner)}: two pods share a volume of one node"
            if pod.owner["kind"] == "StatefulSet":
                service = self.named("Service", spec["serviceName"], pod.namespace)
                if service is None or service["spec"].get("clusterIP") != "None":
                    yield f"{_title(pod.owner)} has no headless Service, and its pods no names"


def _pods(found: Iterable[Manifest]) -> Iterator[PodTemplate]:
    for it in found:
        if it["kind"] in WORKLOADS:
            spec = it["spec"]
            if it["kind"] == "CronJob":
                spec = spec["jobTemplate"]["spec"]
            yield PodTemplate(it, spec["template"], _namespace(it))


def _referred(container: Manifest) -> Iterator[tuple[str, str, str | None]]:
    """Give kind, name and key of what must exist before the container starts."""
    for it in container.get("envFrom", []):
        for source, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            if source in it and not it[source].get("optional"):
                yield kind, it[source]["name"], None
    for it in container.get("env", []):
        chosen = it.get("valueFrom", {})
        for source, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
            if source in chosen and not chosen[source].get("optional"):
                yield kind, chosen[source]["name"], chosen[source]["key"]


def _binds(volume: Manifest, name: str, claim: Manifest, namespace: str) -> bool:
    spec = volume["spec"]
    wanted = claim["resources"]["requests"]["storage"]
    return (
        spec["claimRef"] == {"name": name, "namespace": namespace}
        and spec["storageClassName"] == claim["storageClassName"]
        and set(claim["accessModes"]) <= set(spec["accessModes"])
        and bytes_of(spec["capacity"]["storage"]) >= bytes_of(wanted)
    )


def _is_restricted(pod: PodTemplate) -> Iterator[bool]:
    """kubernetes.io, "Pod Security Standards", restricted."""
    context = pod.spec.get("securityContext", {})
    yield not any(pod.spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))
    yield not any("hostPath" in it for it in pod.spec.get("volumes", []))
    yield context.get("runAsNonRoot") is True
    yield context.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost")
    for container in pod.containers:
        own = container.get("securityContext", {})
        yield own.get("allowPrivilegeEscalation") is False
        yield "ALL" in own.get("capabilities", {}).get("drop", [])
        yield not own.get("privileged")


def _cpus(quantity: str) -> float:
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def _namespace(manifest: Manifest) -> str:
    namespace: str = manifest["metadata"].get("namespace", "")
    return namespace


def _title(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def found_in(found: Sequence[Manifest], kind: str, name: str) -> Any:
    """Return one manifest, to be changed."""
    return next(it for it in found if it["kind"] == kind and it["metadata"]["name"] == name)
