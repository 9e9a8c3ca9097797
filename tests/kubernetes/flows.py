"""Which packets get through: security groups as planned, Calico as installed, NetworkPolicies.

Pure.  A flow between two pods is tried for every pair of nodes on which they may stand.  Between
nodes a packet is either in an envelope (IPIP, VXLAN), whose addresses are the nodes' own, or bare,
with the pods' addresses.  EC2 matches a rule that names a group by the addresses of instances, so
that such a rule never admits a bare packet.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from tests.kubernetes.manifests import Manifest
from tests.terraform.plan import Plan, Values

_NUMBERS = {"tcp": ("tcp", "6"), "udp": ("udp", "17"), "ipip": ("4",)}
_ENVELOPES = {"IPIP": ("ipip", None), "VXLAN": ("udp", 4789)}


@dataclass(frozen=True, slots=True)
class PodEnd:
    """Where a flow begins or ends: a pod, by what policies know of it.

    Attributes:
        roles: of the nodes on which it may stand.
        ports: number by name, for policies that name a port.
    """

    name: str
    namespace: str
    labels: Mapping[str, str]
    roles: tuple[str, ...]
    ports: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class NodeEnd:
    """A process in the network of every node of these roles."""

    name: str
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AddressEnd:
    """A machine that is no node."""

    name: str
    address: str


End = PodEnd | NodeEnd | AddressEnd


@dataclass(frozen=True, slots=True)
class Flow:
    """What must get through.

    Attributes:
        protocol: tcp or udp.
        node_port: what an outsider asks for, where a Service forwards to *port* of the pod.
    """

    source: End
    target: End
    port: int
    protocol: str = "tcp"
    node_port: int | None = None

    def __str__(self) -> str:
        return f"{self.source.name} -> {self.target.name} {self.protocol}/{self.port}"


@dataclass(frozen=True, slots=True)
class ClusterNetwork:
    """All that decides about a packet.

    Attributes:
        installation: Calico's, as init-master.sh applies it.
        policies: every NetworkPolicy, with its namespace.
        namespaces: labels by name.
    """

    plan: Plan
    installation: Manifest
    policies: Sequence[Manifest]
    namespaces: Mapping[str, Mapping[str, str]]

    def blocked(self, flow: Flow) -> list[str]:
        """Return why *flow* does not get through; empty where it does."""
        return [*self.policy_faults(flow), *self._wire_faults(flow)]

    # Policies.

    def policy_faults(self, flow: Flow) -> Iterator[str]:
        target, source = flow.target, flow.source
        if isinstance(target, PodEnd) and not self._admitted("Ingress", target, source, flow):
            yield f"{flow}: a NetworkPolicy of {target.name} does not admit it"
        if isinstance(source, PodEnd) and not self._admitted("Egress", source, target, flow):
            yield f"{flow}: a NetworkPolicy of {source.name} does not let it out"

    def _admitted(self, direction: str, pod: PodEnd, other: End, flow: Flow) -> bool:
        chosen = [
            policy["spec"]
            for policy in self.policies
            if policy["metadata"]["namespace"] == pod.namespace
            and direction in policy["spec"].get("policyTypes", ["Ingress"])
            and selects(policy["spec"]["podSelector"], pod.labels)
        ]
        if not chosen:
            return True
        peers = "from" if direction == "Ingress" else "to"
        return any(
            self._peer_fits(rule.get(peers), other, pod.namespace)
            and _port_fits(rule.get("ports"), flow)
            for spec in chosen
            for rule in spec.get(direction.lower(), [])
        )

    def _peer_fits(self, peers: list[Manifest] | None, other: End, namespace: str) -> bool:
        return not peers or any(self._one_fits(peer, other, namespace) for peer in peers)

    def _one_fits(self, peer: Manifest, other: End, namespace: str) -> bool:
        if "ipBlock" in peer:
            return isinstance(other, AddressEnd) and _in_block(peer["ipBlock"], other.address)
        if not isinstance(other, PodEnd):
            return False
        if "namespaceSelector" in peer:
            if not selects(peer["namespaceSelector"], self.namespaces.get(other.namespace, {})):
                return False
        elif other.namespace != namespace:
            return False
        return selects(peer.get("podSelector", {}), other.labels)

    # The wire.

    def _wire_faults(self, flow: Flow) -> Iterator[str]:
        for source in self._places(flow.source):
            for target in self._places(flow.target):
                if source is not target:
                    yield from self._between(flow, source, target)

    def _places(self, end: End) -> list[Values | AddressEnd]:
        if isinstance(end, AddressEnd):
            return [end]
        found: list[Values | AddressEnd] = [
            node for node in self.plan.of("aws_instance") if node["tags"]["Role"] in end.roles
        ]
        return found

    def _between(
        self, flow: Flow, source: Values | AddressEnd, target: Values | AddressEnd
    ) -> Iterator[str]:
        if isinstance(target, AddressEnd):
            assert not isinstance(source, AddressEnd)
            if not self._passes("egress", source, flow.protocol, flow.port, target.address, None):
                yield f"{flow}: no group lets it out"
        elif isinstance(source, AddressEnd):
            port = flow.node_port or flow.port
            if not self._passes("ingress", target, flow.protocol, port, source.address, None):
                yield f"{flow}: no group admits port {port} from {source.name}"
        elif isinstance(flow.target, PodEnd):
            yield from self._to_pod(flow, source, target)
        else:
            bare = isinstance(flow.source, PodEnd) and self._pool.get("natOutgoing") == "Disabled"
            yield from self._packet(flow, source, target, (flow.protocol, flow.port), bare=bare)

    def _to_pod(self, flow: Flow, source: Values, target: Values) -> Iterator[str]:
        mode = self._pool.get("encapsulation", "IPIP")
        kind = mode.removesuffix("CrossSubnet")
        same_subnet = source["subnet_id"] == target["subnet_id"]
        bare = kind == "None" or (mode.endswith("CrossSubnet") and same_subnet)
        if bare:
            bare_source = isinstance(flow.source, PodEnd)
            packet = (flow.protocol, flow.port)
            yield from self._packet(flow, source, target, packet, bare=bare_source)
            if source["source_dest_check"] or target["source_dest_check"]:
                yield f"{flow}: EC2 drops packets that are not between instances' addresses"
        else:
            yield from self._packet(flow, source, target, _ENVELOPES[kind], bare=False)
        if kind != "VXLAN":
            if self._network.get("bgp") == "Disabled":
                yield f"{flow}: without BGP no node knows where the pod is"
            yield from self._packet(flow, source, target, ("tcp", 179), bare=False)

    def _packet(
        self,
        flow: Flow,
        source: Values,
        target: Values,
        packet: tuple[str, int | None],
        *,
        bare: bool,
    ) -> Iterator[str]:
        """Ask the groups of both machines; a *bare* packet carries a pod's address."""
        protocol, port = packet
        origin = str(self._pool["cidr"]) if bare else self._cidr_of(source)
        groups = None if bare else source["vpc_security_group_ids"]
        said = f"{protocol}/{port}" if port else protocol
        if not self._passes("ingress", target, protocol, port, origin, groups):
            kind = "with a pod's address" if bare else "between nodes"
            yield (
                f"{flow}: {target['tags']['Name']} drops {said} {kind} "
                f"from {source['tags']['Name']}"
            )
        destination = self._cidr_of(target)
        reached = target["vpc_security_group_ids"]
        if not self._passes("egress", source, protocol, port, destination, reached):
            yield f"{flow}: {source['tags']['Name']} does not let {said} out"

    def _passes(
        self,
        direction: str,
        node: Values,
        protocol: str,
        port: int | None,
        other: str,
        other_groups: Sequence[str] | None,
    ) -> bool:
        return any(
            rule["security_group_id"] in node["vpc_security_group_ids"]
            and _rule_fits(rule, protocol, port)
            and _other_fits(rule, other, other_groups)
            for rule in self.plan.of(f"aws_vpc_security_group_{direction}_rule")
        )

    def _cidr_of(self, node: Values) -> str:
        subnets = {subnet["id"]: subnet["cidr_block"] for subnet in self.plan.of("aws_subnet")}
        cidr: str = subnets[node["subnet_id"]]
        return cidr

    @property
    def _network(self) -> Manifest:
        network: Manifest = self.installation["spec"]["calicoNetwork"]
        return network

    @property
    def _pool(self) -> Manifest:
        pool: Manifest = self._network["ipPools"][0]
        return pool


def selects(selector: Manifest, labels: Mapping[str, str]) -> bool:
    """Whether a label selector fits; an empty one fits everything."""
    plain = selector.get("matchLabels", {})
    if any(labels.get(name) != value for name, value in plain.items()):
        return False
    return all(_expression_fits(it, labels) for it in selector.get("matchExpressions", []))


def _expression_fits(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value = labels.get(expression["key"])
    return {
        "In": lambda: value in expression["values"],
        "NotIn": lambda: value not in expression["values"],
        "Exists": lambda: value is not None,
        "DoesNotExist": lambda: value is None,
    }[expression["operator"]]()


def _port_fits(ports: list[Manifest] | None, flow: Flow) -> bool:
    if not ports:
        return True
    named = flow.target.ports if isinstance(flow.target, PodEnd) else {}
    for allowed in ports:
        if allowed.get("protocol", "TCP").lower() != flow.protocol:
            continue
        port = allowed.get("port")
        number = named.get(port) if isinstance(port, str) else port
        if port is None or number == flow.port:
            return True
        last = allowed.get("endPort", number)
        if number is not None and last is not None and number <= flow.port <= last:
            return True
    return False


def _in_block(block: Manifest, address: str) -> bool:
    asked = IPv4Address(address)
    excepted = [IPv4Network(it) for it in block.get("except", [])]
    return asked in IPv4Network(block["cidr"]) and not any(asked in it for it in excepted)


def _rule_fits(rule: Values, protocol: str, port: int | None) -> bool:
    if rule["ip_protocol"] == "-1":
        return True
    if rule["ip_protocol"] not in _NUMBERS[protocol]:
        return False
    if port is None:
        return True
    first, last = rule.get("from_port"), rule.get("to_port")
    return first is not None and last is not None and first <= port <= last


def _other_fits(rule: Values, other: str, groups: Sequence[str] | None) -> bool:
    if rule.get("referenced_security_group_id"):
        return groups is not None and rule["referenced_security_group_id"] in groups
    if not rule.get("cidr_ipv4"):
        return False
    return IPv4Network(other).subnet_of(IPv4Network(rule["cidr_ipv4"]))
