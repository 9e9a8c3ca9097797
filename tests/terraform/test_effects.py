"""What the plans do, and that whatever breaks it is found.

Each fault below is planted in a copy of the sources, or given as an input.  The copy is planned,
its nodes are booted on a scratch root, and the flows of the platform are asked of it; one of them
must say what is wrong.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from servekit.fleet.fleet import load_fleet
from tests.kubernetes.cluster_network import cluster_network, node_settings
from tests.kubernetes.manifests import KUBECTL_MISSING, manifests
from tests.kubernetes.needed_flows import needed_flows, pods_of
from tests.terraform.effects_aws import backend_faults, cluster_faults, state_faults
from tests.terraform.effects_gcp import bench_faults
from tests.terraform.node_boot import boot_faults
from tests.terraform.offline import MISSING, OfflineTerraform, offline
from tests.terraform.plan import Plan, PlanRefused, plan_of, planned

pytestmark = [
    pytest.mark.skipif(shutil.which("terraform") is None, reason=MISSING),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason=KUBECTL_MISSING),
]

SOURCES = Path("src")
FLEET_PORTS = [replica.port for replica in load_fleet("h100").replicas] + [8080, 8081]


@dataclass(frozen=True, slots=True)
class PlantedFault:
    """A change of one file under src/ that must be found.

    Attributes:
        caught: words of the fault that is reported.
    """

    file: str
    old: str
    new: str
    caught: str

    def plant(self, sources: Path) -> None:
        path = sources / self.file
        text = path.read_text()
        assert self.old in text, f"{self.file} has changed: {self.old}"
        path.write_text(text.replace(self.old, self.new))


def faults_of_cluster(sources: Path, scratch: Path, **variables: object) -> Iterator[str]:
    """Give what is wrong with the cluster: its plan, its nodes' boot, its flows."""
    plan = plan_of(sources / "terraform/aws_cluster", **variables)
    settings = node_settings(plan)
    yield from cluster_faults(plan, settings["POD_CIDR"], settings["SERVICE_CIDR"])
    yield from boot_faults(plan, scratch)
    yield from blocked_flows(plan, sources / "kubernetes/cluster")
    images = {container for _, container in _images()}
    if unknown := images - {it["name"] for it in plan.of("aws_ecr_repository")}:
        yield f"no repository for {', '.join(sorted(unknown))}"


def _images() -> Iterator[tuple[str, str]]:
    for shape in ("platform/single", "platform/replicated"):
        for manifest in manifests(shape):
            template = manifest.get("spec", {}).get("template", {})
            for container in template.get("spec", {}).get("containers", []):
                yield shape, container["image"].partition(":")[0]


def blocked_flows(plan: Plan, scripts: Path) -> Iterator[str]:
    for shape in ("platform/single", "platform/replicated"):
        parts = [shape, "monitoring"]
        network = cluster_network(plan, scripts.resolve(), parts)
        pods = pods_of([it for part in parts for it in manifests(part)], "llama-platform")
        for flow in needed_flows(pods, plan.of("aws_vpc")[0]["cidr_block"]):
            yield from network.blocked(flow)


def faults_of_state(sources: Path) -> Iterator[str]:
    plan = plan_of(sources / "terraform/aws_state")
    yield from state_faults(plan)
    cluster = (sources / "terraform/aws_cluster/versions.tf").read_text()
    yield from backend_faults(plan.outputs["backend"], cluster)
    if "prevent_destroy = true" not in (sources / "terraform/aws_state/main.tf").read_text():
        yield "the states can be destroyed by a command"


def faults_of_bench(sources: Path, **variables: object) -> list[str]:
    return bench_faults(plan_of(sources / "terraform/gcp_bench", **variables), FLEET_PORTS)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy to plant a fault in."""
    copy = tmp_path / "src"
    ignored = shutil.ignore_patterns("*.tfstate*", ".terraform*")
    for part in ("terraform", "kubernetes/cluster"):
        shutil.copytree(SOURCES / part, copy / part, ignore=ignored)
    return copy


SHAPES: tuple[dict[str, object], ...] = (
    {},
    {"zone_count": 1},
    {"worker_count": 3, "gpu_worker_count": 3},
    {"pod_cidr": "10.244.0.0/16", "service_cidr": "10.96.0.0/16", "vpc_cidr": "172.16.0.0/16"},
    {"gpu_spot": True, "node_port_cidrs": ["203.0.113.0/24"]},
    {
        "certificate_arn": "arn:aws:acm:us-east-1:123456789012:certificate/0a-1b",
        "client_cidrs": ["0.0.0.0/0"],
    },
)


@pytest.mark.parametrize("variables", SHAPES, ids=lambda it: ",".join(it) or "defaults")
def test_the_cluster_does_what_it_must(variables: dict[str, object], tmp_path: Path) -> None:
    """In every shape: nodes talk, boot and join, and answer those alone who may ask."""
    assert list(faults_of_cluster(SOURCES, tmp_path, **variables)) == []


def test_the_state_is_kept_as_it_must() -> None:
    """Encrypted, versioned, locked, private."""
    assert list(faults_of_state(SOURCES)) == []


@pytest.mark.parametrize("variables", [{}, {"client_cidrs": ["203.0.113.7/32"]}])
def test_the_benchmark_does_what_it_must(variables: dict[str, object]) -> None:
    """Closed but for its tunnel, ended by itself, with room for the models."""
    assert faults_of_bench(SOURCES, **variables) == []


CLUSTER = "terraform/aws_cluster"
IN_THE_CLUSTER = {
    # Network.
    "bare packets within a subnet": PlantedFault(
        "kubernetes/cluster/init-master.sh",
        "encapsulation: IPIP\n",
        "encapsulation: IPIPCrossSubnet\n",
        "drops udp/53 with a pod's address",
    ),
    "no envelope at all": PlantedFault(
        "kubernetes/cluster/init-master.sh",
        "encapsulation: IPIP\n",
        "encapsulation: None\n",
        "with a pod's address",
    ),
    "no IPIP between nodes": PlantedFault(
        f"{CLUSTER}/security.tf", 'protocol = "4"', 'protocol = "47"', "drops ipip between nodes"
    ),
    "no BGP between nodes": PlantedFault(
        f"{CLUSTER}/security.tf", "from = 179, to = 179", "from = 180, to = 180", "tcp/179"
    ),
    "no Typha": PlantedFault(
        f"{CLUSTER}/security.tf", "from = 5473, to = 5473", "from = 547, to = 547", "tcp/5473"
    ),
    "no kubelet": PlantedFault(
        f"{CLUSTER}/security.tf", "from = 10250, to = 10250", "from = 1025, to = 1025", "tcp/10250"
    ),
    "no API server": PlantedFault(
        f"{CLUSTER}/security.tf", "from = 6443, to = 6443", "from = 443, to = 443", "tcp/6443"
    ),
    "no node exporter": PlantedFault(
        f"{CLUSTER}/security.tf", "from = 9100, to = 9100", "from = 910, to = 910", "tcp/9100"
    ),
    "rules of another group": PlantedFault(
        f"{CLUSTER}/security.tf",
        "  security_group_id            = aws_security_group.node.id\n"
        "  referenced_security_group_id = aws_security_group.node.id",
        "  security_group_id            = aws_security_group.control_plane.id\n"
        "  referenced_security_group_id = aws_security_group.node.id",
        "between nodes from",
    ),
    "nothing goes out": PlantedFault(
        f"{CLUSTER}/security.tf",
        'cidr_ipv4         = "0.0.0.0/0"\n  ip_protocol       = "-1"',
        'cidr_ipv4         = "10.0.0.0/8"\n  ip_protocol       = "-1"',
        "no group lets it out",
    ),
    "no route to the NAT gateway": PlantedFault(
        f"{CLUSTER}/network.tf",
        "nat_gateway_id = aws_nat_gateway.this.id",
        "gateway_id = aws_internet_gateway.this.id",
        "route to the internet gateway",
    ),
    "a NAT gateway in a private subnet": PlantedFault(
        f"{CLUSTER}/network.tf",
        "subnet_id     = aws_subnet.public[local.zones[0]].id",
        "subnet_id     = aws_subnet.private[local.zones[0]].id",
        "in a subnet without a route to the internet gateway",
    ),
    "a route for some networks only": PlantedFault(
        f"{CLUSTER}/network.tf",
        '    cidr_block     = "0.0.0.0/0"\n    nat',
        '    cidr_block     = "8.0.0.0/8"\n    nat',
        "has no way out",
    ),
    "subnets that share addresses": PlantedFault(
        f"{CLUSTER}/network.tf", "index + 8)", "index + 1)", "share addresses"
    ),
    "names that are not resolved": PlantedFault(
        f"{CLUSTER}/network.tf",
        "enable_dns_support   = true",
        "enable_dns_support   = false",
        "names are not resolved",
    ),
    "private tables on public subnets": PlantedFault(
        f"{CLUSTER}/network.tf",
        "  for_each       = aws_subnet.private\n",
        "  for_each       = aws_subnet.public\n",
        "has no way out",
    ),
    "a pool of other addresses": PlantedFault(
        "kubernetes/cluster/bootstrap-node.sh",
        "step init-master.sh",
        "POD_CIDR=10.9.0.0/16 step init-master.sh",
        "another pod-network-cidr",
    ),
    # Exposure.
    "nodes with public addresses": PlantedFault(
        f"{CLUSTER}/nodes.tf", "aws_subnet.private[", "aws_subnet.public[", "has a public address"
    ),
    "public addresses by default": PlantedFault(
        f"{CLUSTER}/network.tf",
        "map_public_ip_on_launch = false",
        "map_public_ip_on_launch = true",
        "gives machines public addresses",
    ),
    "NodePorts for everybody": PlantedFault(
        f"{CLUSTER}/security.tf", "setunion([var.vpc_cidr]", 'setunion(["0.0.0.0/0"]', "internet"
    ),
    "NodePorts for two halves of everybody": PlantedFault(
        f"{CLUSTER}/security.tf",
        "setunion([var.vpc_cidr]",
        'setunion(["0.0.0.0/1", "128.0.0.0/1"]',
        "internet",
    ),
    "SSH for the VPC": PlantedFault(
        f"{CLUSTER}/security.tf", "from_port         = 30000", "from_port         = 22", "SSH"
    ),
    "every port between nodes": PlantedFault(
        f"{CLUSTER}/security.tf",
        "from = 10250, to = 10250",
        "from = 1, to = 65535",
        "admits a range of ports",
    ),
    "every protocol between nodes": PlantedFault(
        f"{CLUSTER}/security.tf", 'protocol = "4"', 'protocol = "-1"', "admits a range of ports"
    ),
    "the control plane for the VPC": PlantedFault(
        f"{CLUSTER}/security.tf",
        "  security_group_id            = aws_security_group.control_plane.id\n"
        "  referenced_security_group_id = aws_security_group.node.id",
        "  security_group_id            = aws_security_group.control_plane.id\n"
        "  cidr_ipv4 = var.vpc_cidr",
        "ports of the control plane",
    ),
    "a key for SSH": PlantedFault(
        f"{CLUSTER}/nodes.tf",
        "  ebs_optimized ",
        '  key_name = "mine"\n  ebs_optimized ',
        "SSH key",
    ),
    "an open default group": PlantedFault(
        f"{CLUSTER}/network.tf",
        '  vpc_id = aws_vpc.this.id\n}\n\nresource "aws_internet_gateway"',
        "  vpc_id = aws_vpc.this.id\n  ingress {\n    protocol = -1\n    self = true\n"
        '    from_port = 0\n    to_port = 0\n  }\n}\n\nresource "aws_internet_gateway"',
        "admits something",
    ),
    # Metadata.
    "metadata without a token": PlantedFault(
        f"{CLUSTER}/nodes.tf", 'http_tokens   = "required"', 'http_tokens   = "optional"', "IMDSv1"
    ),
    "metadata for pods": PlantedFault(
        f"{CLUSTER}/nodes.tf", "hop_limit = 1", "hop_limit = 2", "tokens of its role to pods"
    ),
    "no metadata": PlantedFault(
        f"{CLUSTER}/nodes.tf", 'http_endpoint = "enabled"', 'http_endpoint = "disabled"', "no cred"
    ),
    # Identity.
    "everybody is a node": PlantedFault(
        f"{CLUSTER}/identity.tf",
        '{ Service = "ec2.amazonaws.com" }',
        '{ AWS = "*" }',
        "can be assumed by",
    ),
    "administrators": PlantedFault(
        f"{CLUSTER}/identity.tf",
        '"AmazonEC2ContainerRegistryPullOnly"',
        '"AdministratorAccess"',
        "has the policies",
    ),
    "no shell": PlantedFault(
        f"{CLUSTER}/identity.tf", '["AmazonSSMManagedInstanceCore", ', "[", "has the policies"
    ),
    "workers that publish": PlantedFault(
        f"{CLUSTER}/identity.tf", '["ssm:GetParameter"]', '["ssm:*"]', "a worker may ssm:*"
    ),
    "workers that read every parameter": PlantedFault(
        f"{CLUSTER}/identity.tf",
        'Action   = ["ssm:GetParameter"]\n      Resource = ["${local.access_parameters}/join"]',
        'Action   = ["ssm:GetParameter"]\n      Resource = ["*"]',
        "a worker may ssm:GetParameter on *",
    ),
    "workers that read the administrator's key": PlantedFault(
        f"{CLUSTER}/identity.tf",
        'Action   = ["ssm:GetParameter"]\n      Resource = ["${local.access_parameters}/join"]',
        'Action   = ["ssm:GetParameter"]\n'
        '      Resource = ["${local.access_parameters}/kubeconfig"]',
        "a worker may ssm:GetParameter on",
    ),
    "nodes without a role": PlantedFault(
        f"{CLUSTER}/nodes.tf",
        "  iam_instance_profile   = aws_iam_instance_profile.node[",
        "  key_name               = null # [",
        "does not have the role",
    ),
    "a master with a worker's role": PlantedFault(
        f"{CLUSTER}/nodes.tf",
        '? "control-plane" : "worker"].name',
        '? "worker" : "worker"].name',
        "does not have the role of a control-plane",
    ),
    # Storage.
    "open disks": PlantedFault(
        f"{CLUSTER}/nodes.tf", "encrypted   = true", "encrypted   = false", "not encrypted"
    ),
    "disks of the image's size": PlantedFault(
        f"{CLUSTER}/nodes.tf", "    volume_size = each.value.volume_gb\n", "", "a disk of less than"
    ),
    "small disks for GPUs": PlantedFault(
        f"{CLUSTER}/nodes.tf", "= var.gpu_root_volume_gb", "= var.root_volume_gb", "less than 80 GB"
    ),
    "versions that change": PlantedFault(
        f"{CLUSTER}/registry.tf", '"IMMUTABLE"', '"MUTABLE"', "lets a version be replaced"
    ),
    "an image without a repository": PlantedFault(
        f"{CLUSTER}/registry.tf", '"model_server"]', '"model"]', "no repository for"
    ),
    "parameters in the clear": PlantedFault(
        f"{CLUSTER}/identity.tf", '"SecureString"', '"String"', "is not encrypted"
    ),
    "a secret in the state": PlantedFault(
        f"{CLUSTER}/identity.tf",
        'value_wo         = "pending"\n  value_wo_version = 1',
        'value = "pending"',
        "in the state",
    ),
    # User data.
    "a node without a name": PlantedFault(
        f"{CLUSTER}/nodes.tf", "\"export NODE_NAME='${name}'\",", "", "host name"
    ),
    "user data that is no script": PlantedFault(
        f"{CLUSTER}/nodes.tf", '"#!/usr/bin/env bash",', '"#!/usr/bin/env bsh",', "does not boot"
    ),
    "nodes that do not prepare": PlantedFault(
        f"{CLUSTER}/nodes.tf",
        '    [file("${path.module}/prepare-node.sh")],\n',
        "",
        "does not say that it is prepared",
    ),
    "swap after a boot": PlantedFault(
        f"{CLUSTER}/prepare-node.sh", "  sed -i -E", "  : sed -i -E", "swap is on"
    ),
    "a disk that is not mounted": PlantedFault(
        f"{CLUSTER}/prepare-node.sh",
        "s@^([^#].*[[:space:]]swap[[:space:]].*)$@# \\1@",
        "s@^(.*)$@# \\1@",
        "root disk is not mounted",
    ),
    "no bridges": PlantedFault(
        f"{CLUSTER}/prepare-node.sh", "  modprobe br_netfilter\n", "", "module br_netfilter"
    ),
    "no forwarding": PlantedFault(
        f"{CLUSTER}/prepare-node.sh", "net.ipv4.ip_forward = 1", "net.ipv4.ip_forward = 0", "is off"
    ),
    "no agent": PlantedFault(
        f"{CLUSTER}/prepare-node.sh", "  start_ssm_agent\n  start", "  start", "no agent answers"
    ),
    "a bootstrap that gives up": PlantedFault(
        f"{CLUSTER}/prepare-node.sh", "Restart=on-failure\n", "", "or only once"
    ),
    "a GPU worker without a driver": PlantedFault(
        "kubernetes/cluster/bootstrap-node.sh",
        "    step install-k8s.sh\n    install_driver\n",
        "    step install-k8s.sh\n",
        "its pods get no GPU",
    ),
    "a GPU worker without a taint": PlantedFault(
        "kubernetes/cluster/bootstrap-node.sh", "    mark_gpu_node\n", "", "without label or taint"
    ),
    "no folder for the weights": PlantedFault(
        "kubernetes/cluster/bootstrap-node.sh", "    make_model_folders\n", "", "no folder for"
    ),
    "a join that nobody can read": PlantedFault(
        "kubernetes/cluster/bootstrap-node.sh", "| publish join", "| publish joined", "join is not"
    ),
    "a kubeconfig for inside": PlantedFault(
        "kubernetes/cluster/init-master.sh",
        "CERT_NAMES:-127.0.0.1}",
        "CERT_NAMES:-localhost}",
        "through a port forward",
    ),
    "scripts of another role": PlantedFault(
        f"{CLUSTER}/nodes.tf",
        '    worker        = ["common.sh", "install-k8s.sh", "bootstrap-node.sh"]',
        '    worker        = ["common.sh", "bootstrap-node.sh"]',
        "does not boot",
    ),
}

STATE = "terraform/aws_state"
IN_THE_STATE = {
    "states that are lost": PlantedFault(
        f"{STATE}/main.tf", 'status = "Enabled"\n  }', 'status = "Suspended"\n  }', "is lost"
    ),
    "states in the clear": PlantedFault(
        f"{STATE}/main.tf", 'sse_algorithm = "AES256"', 'sse_algorithm = "none"', "not encrypted"
    ),
    "states for everybody": PlantedFault(
        f"{STATE}/main.tf",
        "restrict_public_buckets = true",
        "restrict_public_buckets = false",
        "made public",
    ),
    "states without TLS": PlantedFault(
        f"{STATE}/main.tf",
        '"aws:SecureTransport" = "false"',
        '"aws:SecureTransport" = "true"',
        "answers without TLS",
    ),
    "a policy that grants": PlantedFault(
        f"{STATE}/main.tf", 'Effect    = "Deny"', 'Effect    = "Allow"', "grants something"
    ),
    "objects without TLS": PlantedFault(
        f"{STATE}/main.tf", ', "${aws_s3_bucket.state.arn}/*"]', "]", "answers without TLS"
    ),
    "states that expire": PlantedFault(
        f"{STATE}/main.tf",
        "noncurrent_version_expiration {\n      noncurrent_days = var.old_versions_days\n    }",
        "expiration {\n      days = 30\n    }",
        "the state itself expires",
    ),
    "states that are destroyed": PlantedFault(
        f"{STATE}/main.tf", "prevent_destroy = true", "prevent_destroy = false", "can be destroyed"
    ),
    "two applies at once": PlantedFault(
        f"{STATE}/outputs.tf", "use_lockfile = true", "use_lockfile = false", "two applies"
    ),
    "a state on one machine": PlantedFault(
        f"{CLUSTER}/versions.tf", 'backend "s3" {}', 'backend "local" {}', "on one machine"
    ),
    "another key of the lock": PlantedFault(
        f"{STATE}/main.tf",
        'count        = var.lock_with_dynamodb ? 1 : 0\n  name         = "${var.name}-lock"\n'
        '  billing_mode = "PAY_PER_REQUEST"\n'
        "  # Terraform's S3 backend asks for exactly this key.\n"
        '  hash_key = "LockID"',
        'count        = 1\n  name         = "${var.name}-lock"\n'
        '  billing_mode = "PAY_PER_REQUEST"\n  hash_key = "Lock"',
        "cannot lock",
    ),
}

BENCH = "terraform/gcp_bench"
IN_THE_BENCHMARK = {
    "SSH for everybody": PlantedFault(
        f"{BENCH}/network.tf",
        "source_ranges           = [local.iap_range]",
        'source_ranges           = ["0.0.0.0/0"]',
        "most of the internet",
    ),
    "a tunnel without SSH": PlantedFault(
        f"{BENCH}/network.tf", "concat([22], ", "concat([], ", "does not reach ['22']"
    ),
    "every machine of the network": PlantedFault(
        f"{BENCH}/network.tf",
        "  target_service_accounts = [google_service_account.this.email]\n",
        "",
        "holds for every machine",
    ),
    "no way out": PlantedFault(
        f"{BENCH}/network.tf",
        'resource "google_compute_router_nat" "this" {',
        'resource "google_compute_router_nat" "this" {\n  count = 0',
        "downloads nothing",
    ),
    "keys of the project": PlantedFault(
        f"{BENCH}/instance.tf", 'ssh-keys = "TRUE"', 'ssh-keys = "FALSE"', "block-project-ssh-keys"
    ),
    "any boot loader": PlantedFault(
        f"{BENCH}/instance.tf",
        "secure_boot          = true",
        "secure_boot          = false",
        "enable_secure_boot is off",
    ),
    "an editor": PlantedFault(
        f"{BENCH}/identity.tf", '"roles/monitoring.metricWriter"', '"roles/editor"', "has the roles"
    ),
    "a machine for ever": PlantedFault(
        f"{BENCH}/variables.tf", "default     = 12", "default     = 0", "until somebody remembers"
    ),
    "an end that deletes": PlantedFault(
        f"{BENCH}/instance.tf", '? "STOP" : null', '? "DELETE" : null', "is deleted"
    ),
    "models on another disk": PlantedFault(
        f"{BENCH}/instance.tf",
        "source = google_compute_disk.model_cache.id",
        'source = "other"',
        "disk is not attached",
    ),
    "an address without a rule": PlantedFault(
        f"{BENCH}/instance.tf",
        "for_each = local.public ? [1] : []",
        "for_each = [1]",
        "a public address without",
    ),
    "services that are off": PlantedFault(
        f"{BENCH}/identity.tf", '"iap.googleapis.com", ', "", "may be off"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", IN_THE_CLUSTER)
def test_a_broken_cluster_is_found(fault: str, sources: Path, tmp_path: Path) -> None:
    """Whatever is changed for the worse, some effect is missing."""
    planted = IN_THE_CLUSTER[fault]
    planted.plant(sources)
    nodes = tmp_path / "nodes"
    nodes.mkdir()

    found = list(faults_of_cluster(sources, nodes))

    assert any(planted.caught in it for it in found), found


@pytest.mark.slow
@pytest.mark.parametrize("fault", IN_THE_STATE)
def test_a_broken_state_is_found(fault: str, sources: Path) -> None:
    """A state that can be lost, read or written twice."""
    planted = IN_THE_STATE[fault]
    planted.plant(sources)

    found = list(faults_of_state(sources))

    assert any(planted.caught in it for it in found), found


@pytest.mark.slow
@pytest.mark.parametrize("fault", IN_THE_BENCHMARK)
def test_a_broken_benchmark_is_found(fault: str, sources: Path) -> None:
    """A machine that is open, that never ends, or that cannot work."""
    planted = IN_THE_BENCHMARK[fault]
    planted.plant(sources)

    found = faults_of_bench(sources)

    assert any(planted.caught in it for it in found), found


# Variable, value that must be refused; the message must name the variable.
REFUSED_BY_THE_CLUSTER: tuple[tuple[str, object], ...] = (
    ("name", "Llama"),
    ("name", "ends-with-a-dash-"),
    ("name", "two--dashes"),
    ("name", "a" * 41),
    ("region", "us-east-1a"),
    ("region", "virginia"),
    ("vpc_cidr", "192.168.0.0/16"),
    ("vpc_cidr", "10.96.0.0/16"),
    ("vpc_cidr", "10.10.0.0/8"),
    ("vpc_cidr", "10.10.0.0/24"),
    ("vpc_cidr", "10.10.3.0/16"),
    ("vpc_cidr", "8.8.0.0/16"),
    ("vpc_cidr", "fd00::/16"),
    ("pod_cidr", "10.10.128.0/20"),
    ("pod_cidr", "192.168.7.1/16"),
    ("pod_cidr", "100.0.0.0/16"),
    ("service_cidr", "192.168.128.0/20"),
    ("service_cidr", "10.8.0.0/13"),
    ("service_cidr", "10.96.0.0/28"),
    ("zone_count", 0),
    ("zone_count", 2.5),
    ("control_plane_instance_type", "t3.micro"),
    ("control_plane_instance_type", "t4g.medium"),
    ("worker_instance_type", "m6gd.large"),
    ("worker_instance_type", "t3.small"),
    ("worker_instance_type", "large"),
    ("worker_count", 1.5),
    ("worker_count", 0),
    ("gpu_worker_instance_type", "g4ad.xlarge"),
    ("gpu_worker_instance_type", "g5g.xlarge"),
    ("gpu_worker_instance_type", "g3.4xlarge"),
    ("gpu_worker_instance_type", "p2.xlarge"),
    ("gpu_worker_instance_type", "p3.2xlarge"),
    ("gpu_worker_instance_type", "t3.medium"),
    ("gpu_worker_count", -1),
    ("ami_id", "ubuntu"),
    ("gpu_ami_id", "ami-123"),
    ("root_volume_gb", 8),
    ("gpu_root_volume_gb", 40),
    ("gpu_root_volume_gb", 99.5),
    ("node_port_cidrs", ["0.0.0.0/0"]),
    ("node_port_cidrs", ["0.0.0.0/1", "128.0.0.0/1"]),
    ("node_port_cidrs", ["0.0.0.0/2", "64.0.0.0/2", "128.0.0.0/2", "192.0.0.0/2"]),
    ("node_port_cidrs", ["203.0.113.7/24"]),
    ("node_port_cidrs", ["::/0"]),
    ("node_port_cidrs", ["my-laptop"]),
    ("certificate_arn", "arn:aws:iam::123456789012:server-certificate/x"),
    ("client_cidrs", ["203.0.113.9/24"]),
    ("ebs_kms_key_id", "secret"),
)
REFUSED_BY_THE_STATE: tuple[tuple[str, object], ...] = (
    ("name", "Llama_Platform"),
    ("region", "us-east-1a"),
    ("bucket_name", "Has_Capitals"),
    ("bucket_name", "no"),
    ("bucket_name", "192.168.1.1"),
    ("bucket_name", "two..dots"),
    ("bucket_name", "-dash-first"),
    ("bucket_name", "xn--name"),
    ("bucket_name", "name-s3alias"),
    ("bucket_name", "a" * 64),
    ("old_versions_days", 1),
)
REFUSED_BY_THE_BENCHMARK: tuple[tuple[str, object], ...] = (
    ("client_cidrs", ["0.0.0.0/0"]),
    ("client_cidrs", ["0.0.0.0/1", "128.0.0.0/1"]),
    ("client_cidrs", ["203.0.113.7/24"]),
    ("max_run_hours", 1.5),
    ("max_run_hours", 5000),
    ("machine_type", "n2-standard-8"),
    ("zone", "us-central1"),
    ("boot_disk_gb", 20),
    ("operators", ["allUsers"]),
)


@pytest.fixture(scope="module")
def initialised() -> Iterator[dict[str, OfflineTerraform]]:
    """Each configuration, initialised once: an input changes no file."""
    with (
        offline(SOURCES / "terraform/aws_cluster", os.environ, made_up=True) as cluster,
        offline(SOURCES / "terraform/aws_state", os.environ, made_up=True) as state,
        offline(SOURCES / "terraform/gcp_bench", os.environ, made_up=True) as bench,
    ):
        yield {"cluster": cluster, "state": state, "bench": bench}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("configuration", "name", "value"),
    [
        *(("cluster", *pair) for pair in REFUSED_BY_THE_CLUSTER),
        *(("state", *pair) for pair in REFUSED_BY_THE_STATE),
        *(("bench", *pair) for pair in REFUSED_BY_THE_BENCHMARK),
    ],
)
def test_an_input_that_cannot_work_is_refused(
    initialised: dict[str, OfflineTerraform], configuration: str, name: str, value: object
) -> None:
    """By what it means, before anything is made; the message names it."""
    with pytest.raises(PlanRefused) as refused:
        planned(initialised[configuration], **{name: value})

    assert f"{name} " in str(refused.value)
    assert "Invalid value for variable" in str(refused.value)


ACCEPTED_BY_THE_CLUSTER: tuple[tuple[str, object], ...] = (
    ("gpu_worker_instance_type", "g6e.12xlarge"),
    ("gpu_worker_instance_type", "p5.48xlarge"),
    ("worker_instance_type", "c7i-flex.large"),
    ("control_plane_instance_type", "m6id.2xlarge"),
    ("vpc_cidr", "10.32.0.0/20"),
    ("node_port_cidrs", ["203.0.113.7/32", "198.51.0.0/16"]),
    ("gpu_worker_count", 0),
    ("region", "us-gov-west-1"),
)


@pytest.mark.parametrize(("name", "value"), ACCEPTED_BY_THE_CLUSTER)
def test_an_input_that_works_is_taken(
    initialised: dict[str, OfflineTerraform], name: str, value: object
) -> None:
    """A rule that refuses everything would pass the test above."""
    assert planned(initialised["cluster"], **{name: value}).resources
