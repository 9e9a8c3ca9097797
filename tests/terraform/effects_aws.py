"""What an AWS plan does, held to what it must do.  Pure: each check returns faults as sentences."""

import json
import re
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network
from itertools import combinations, product
from typing import Any

from tests.terraform.plan import Plan, Values

INTERNET = IPv4Network("0.0.0.0/0")

# More addresses than this (two /8) are a large part of the internet.
MOST_CLIENTS = 2**25

# What a role may do besides its two managed policies; the resource must be named in full.
PERMITTED: dict[str, dict[str, tuple[str, ...]]] = {
    "control-plane": {"ssm:PutParameter": ("/join", "/kubeconfig")},
    "worker": {"ssm:GetParameter": ("/join",)},
}
MANAGED = {"AmazonSSMManagedInstanceCore", "AmazonEC2ContainerRegistryPullOnly"}

# The control plane's own ports, which answer nodes and nothing else.
PRIVATE_PORTS = (22, 2379, 2380, 6443, 10250, 10257, 10259)


def cluster_faults(plan: Plan, pod_cidr: str, service_cidr: str) -> list[str]:
    """Return what is wrong with the plan of `aws_cluster`."""
    return [
        *_address_faults(plan, pod_cidr, service_cidr),
        *_route_faults(plan),
        *_exposure_faults(plan),
        *_machine_faults(plan),
        *_identity_faults(plan),
        *_registry_faults(plan),
        *_parameter_faults(plan),
    ]


def _address_faults(plan: Plan, pod_cidr: str, service_cidr: str) -> Iterator[str]:
    (vpc,) = plan.of("aws_vpc")
    ranges = {
        "the VPC": vpc["cidr_block"],
        "the pods": pod_cidr,
        "the services": service_cidr,
    }
    for (one, first), (other, second) in combinations(ranges.items(), 2):
        if IPv4Network(first).overlaps(IPv4Network(second)):
            yield f"{one} ({first}) and {other} ({second}) share addresses"
    subnets = {name: subnet["cidr_block"] for name, subnet in plan.named("aws_subnet").items()}
    for name, cidr in subnets.items():
        if not IPv4Network(cidr).subnet_of(IPv4Network(vpc["cidr_block"])):
            yield f"{name} ({cidr}) is outside the VPC"
    for (one, first), (other, second) in combinations(subnets.items(), 2):
        if IPv4Network(first).overlaps(IPv4Network(second)):
            yield f"{one} and {other} share addresses"
    if not (vpc["enable_dns_support"] and vpc["enable_dns_hostnames"]):
        yield "names are not resolved in the VPC"


def _route_faults(plan: Plan) -> Iterator[str]:
    """Every node reaches the internet through a NAT gateway that itself reaches it."""
    tables = {table["id"]: table for table in plan.of("aws_route_table")}
    table_of = {
        it["subnet_id"]: tables.get(it["route_table_id"], {"route": []})
        for it in plan.of("aws_route_table_association")
    }
    gateways = {
        gateway["id"] for gateway in plan.of("aws_internet_gateway") if gateway.get("vpc_id")
    }
    nats = {nat["id"]: nat for nat in plan.of("aws_nat_gateway")}
    addresses = {eip["id"] for eip in plan.of("aws_eip")}

    def ways_out(subnet: str) -> list[Values]:
        routes = table_of.get(subnet, {"route": []})["route"]
        return [route for route in routes if route["cidr_block"] == str(INTERNET)]

    for name, node in plan.named("aws_instance").items():
        routes = ways_out(node["subnet_id"])
        if any(route["gateway_id"] in gateways for route in routes):
            yield f"{name} is in a subnet with a route to the internet gateway"
        through = [nats[r["nat_gateway_id"]] for r in routes if r["nat_gateway_id"] in nats]
        if not through:
            yield f"{name} has no way out: its subnet has no route to a NAT gateway"
        for nat in through:
            if nat["allocation_id"] not in addresses:
                yield "the NAT gateway has no public address"
            if not any(r["gateway_id"] in gateways for r in ways_out(nat["subnet_id"])):
                yield "the NAT gateway is in a subnet without a route to the internet gateway"


def _exposure_faults(plan: Plan) -> Iterator[str]:
    public = {group["id"] for group in _named(plan, "aws_security_group.public")}
    (vpc,) = plan.of("aws_vpc")
    opened: dict[str, list[Any]] = {}
    for name, rule in plan.named("aws_vpc_security_group_ingress_rule").items():
        if rule.get("cidr_ipv6"):
            yield f"{name} admits IPv6, which nothing here uses"
        if not rule.get("cidr_ipv4"):
            continue
        source = IPv4Network(rule["cidr_ipv4"])
        if rule["security_group_id"] in public:
            if (rule["from_port"], rule["to_port"], rule["ip_protocol"]) != (443, 443, "tcp"):
                yield f"{name} opens the load balancer for more than TLS"
            continue
        opened.setdefault(rule["security_group_id"], []).append(source)
        if rule["ip_protocol"] != "tcp":
            yield f"{name} admits {source} with every protocol"
        elif any(rule["from_port"] <= port <= rule["to_port"] for port in PRIVATE_PORTS):
            yield f"{name} admits {source} to ports of the control plane or to SSH"
        if rule["from_port"] is None or rule["from_port"] < 30000 or rule["to_port"] > 32767:
            yield f"{name} admits {source} to more than the NodePorts"
    for sources in opened.values():
        outside = [s for s in sources if not s.subnet_of(IPv4Network(vpc["cidr_block"]))]
        if sum(source.num_addresses for source in outside) > MOST_CLIENTS:
            yield f"the NodePorts answer {', '.join(map(str, outside))}: most of the internet"
    for name, group in plan.named("aws_security_group").items():
        if group.get("ingress") or group.get("egress"):
            yield f"{name} has rules inside, which no check here sees"
    for name, group in plan.named("aws_default_security_group").items():
        if group.get("ingress") or group.get("egress"):
            yield f"{name} admits something"
    if not plan.of("aws_default_security_group"):
        yield "the VPC's default group stays open"
    yield from _wide_group_faults(plan)


def _wide_group_faults(plan: Plan) -> Iterator[str]:
    """A rule between groups names its ports; and the control plane answers nodes alone."""
    nodes = {group["id"] for group in _named(plan, "aws_security_group.node")}
    for name, rule in plan.named("aws_vpc_security_group_ingress_rule").items():
        if rule["ip_protocol"] in ("-1", "tcp", "udp") and not rule.get("cidr_ipv4"):
            first, last = rule.get("from_port"), rule.get("to_port")
            if first is None or last - first > 1:
                yield f"{name} admits a range of ports ({first} to {last})"
        if "control_plane" in name and rule.get("referenced_security_group_id") not in nodes:
            yield f"{name} opens the control plane to others than nodes"


def _machine_faults(plan: Plan) -> Iterator[str]:
    public = {subnet["id"] for subnet in _named(plan, "aws_subnet.public")}
    for name, subnet in plan.named("aws_subnet").items():
        if subnet.get("map_public_ip_on_launch"):
            yield f"{name} gives machines public addresses"
    for name, node in plan.named("aws_instance").items():
        if node.get("associate_public_ip_address") or node["subnet_id"] in public:
            yield f"{name} has a public address"
        if node.get("key_name"):
            yield f"{name} takes an SSH key"
        options: Values = next(iter(node.get("metadata_options") or []), {})
        if options.get("http_tokens") != "required":
            yield f"{name} answers metadata without a token (IMDSv1)"
        if options.get("http_put_response_hop_limit") != 1:
            yield f"{name} gives the tokens of its role to pods"
        if options.get("http_endpoint") != "enabled":
            yield f"{name} has no metadata, and so no credentials"
        yield from _disk_faults(name, node)
        if len(node["user_data"]) > 16384:
            yield f"{name} has more user data than EC2 takes"


def _disk_faults(name: str, node: Values) -> Iterator[str]:
    disk: Values = next(iter(node.get("root_block_device") or []), {})
    if not disk.get("encrypted"):
        yield f"{name} has a disk that is not encrypted"
    least = 80 if "gpu" in name else 20
    if (disk.get("volume_size") or 8) < least:
        yield f"{name} has a disk of less than {least} GB"
    if disk.get("volume_type") != "gp3":
        yield f"{name} has a disk that is not gp3"
    if disk.get("delete_on_termination") is False:
        yield f"{name} leaves its disk behind"


def _identity_faults(plan: Plan) -> Iterator[str]:
    roles = {role["name"]: role for role in plan.of("aws_iam_role")}
    kind_of = {
        role["name"]: "control-plane" if "control-plane" in address else "worker"
        for address, role in plan.named("aws_iam_role").items()
    }
    for name, role in roles.items():
        for statement in json.loads(role["assume_role_policy"])["Statement"]:
            if statement.get("Principal") != {"Service": "ec2.amazonaws.com"}:
                yield f"{name} can be assumed by {statement.get('Principal')}"
    attached: dict[str, set[str]] = {name: set() for name in roles}
    for it in plan.of("aws_iam_role_policy_attachment"):
        attached.setdefault(it["role"], set()).add(it["policy_arn"].rpartition("/")[2])
    for name, policies in attached.items():
        if policies != MANAGED:
            yield f"{name} has the policies {sorted(policies)}; it must have {sorted(MANAGED)}"
    for policy in plan.of("aws_iam_role_policy"):
        yield from _policy_faults(kind_of.get(policy["role"], "worker"), policy["policy"])
    yield from _profile_faults(plan, kind_of)


def _policy_faults(kind: str, text: str) -> Iterator[str]:
    permitted = PERMITTED[kind]
    seen = set()
    for statement in json.loads(text)["Statement"]:
        actions, resources = _listed(statement["Action"]), _listed(statement["Resource"])
        for action, resource in product(actions, resources):
            seen.add(action)
            if action not in permitted or "*" in action:
                yield f"a {kind} may {action}"
            elif "*" in resource or not resource.endswith(permitted[action]):
                yield f"a {kind} may {action} on {resource}"
    if missing := permitted.keys() - seen:
        yield f"a {kind} may not {', '.join(missing)}, and nodes cannot join"


def _profile_faults(plan: Plan, kind_of: dict[str, str]) -> Iterator[str]:
    profiles = {it["name"]: kind_of.get(it["role"]) for it in plan.of("aws_iam_instance_profile")}
    for name, node in plan.named("aws_instance").items():
        wanted = "control-plane" if "master" in name else "worker"
        if profiles.get(node.get("iam_instance_profile")) != wanted:
            yield f"{name} does not have the role of a {wanted}: no shell, no images, no join"


def _registry_faults(plan: Plan) -> Iterator[str]:
    for name, repository in plan.named("aws_ecr_repository").items():
        if repository["image_tag_mutability"] != "IMMUTABLE":
            yield f"{name} lets a version be replaced"
        scanning: Values = next(iter(repository.get("image_scanning_configuration") or []), {})
        if not scanning.get("scan_on_push"):
            yield f"{name} is not scanned"
    for policy in plan.of("aws_ecr_repository_policy"):
        if '"*"' in policy["policy"]:
            yield "a repository is open to everybody"


def _parameter_faults(plan: Plan) -> Iterator[str]:
    for name, parameter in plan.named("aws_ssm_parameter").items():
        if parameter["type"] != "SecureString":
            yield f"{name} is not encrypted"
        if parameter.get("value"):
            yield f"{name} has its value in the state"


def state_faults(plan: Plan) -> list[str]:
    """Return what is wrong with the plan of `aws_state`."""
    return list(_state_faults(plan))


def _state_faults(plan: Plan) -> Iterator[str]:
    (bucket,) = plan.of("aws_s3_bucket")
    if not valid_bucket_name(bucket["bucket"].replace("_", "-")):
        yield f"{bucket['bucket']} is no name of a bucket"
    if bucket.get("force_destroy"):
        yield "the bucket is deleted with the states in it"
    for kind in ("versioning", "server_side_encryption_configuration", "public_access_block"):
        if [it["bucket"] for it in plan.of(f"aws_s3_bucket_{kind}")] != [bucket["id"]]:
            yield f"the bucket has no {kind}"
    for it in plan.of("aws_s3_bucket_versioning"):
        if it["versioning_configuration"][0]["status"] != "Enabled":
            yield "a state that is overwritten is lost"
    for it in plan.of("aws_s3_bucket_public_access_block"):
        flags = ("block_public_acls", "block_public_policy", "ignore_public_acls")
        for flag in (*flags, "restrict_public_buckets"):
            if it.get(flag) is not True:
                yield f"the bucket can be made public ({flag})"
    for it in plan.of("aws_s3_bucket_server_side_encryption_configuration"):
        default = it["rule"][0]["apply_server_side_encryption_by_default"]
        chosen = default[0] if isinstance(default, list) else default
        if not chosen or chosen.get("sse_algorithm") not in ("AES256", "aws:kms"):
            yield "states are not encrypted"
    yield from _state_policy_faults(plan)
    for rule in [r for it in plan.of("aws_s3_bucket_lifecycle_configuration") for r in it["rule"]]:
        if rule.get("expiration"):
            yield "the state itself expires"
        kept = (rule.get("noncurrent_version_expiration") or [{"noncurrent_days": 999}])[0]
        if kept["noncurrent_days"] < 7:
            yield "old states are kept for less than a week"
    for table in plan.of("aws_dynamodb_table"):
        if table["hash_key"] != "LockID":
            yield "Terraform cannot lock by this table"


def _state_policy_faults(plan: Plan) -> Iterator[str]:
    statements = [
        statement
        for it in plan.of("aws_s3_bucket_policy")
        for statement in json.loads(it["policy"])["Statement"]
    ]
    if any(it["Effect"] == "Allow" for it in statements):
        yield "the bucket's policy grants something; IAM alone must"
    closed = any(
        it["Effect"] == "Deny"
        and it["Principal"] == "*"
        and it["Action"] == "s3:*"
        and it["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
        and len(_listed(it["Resource"])) == 2
        for it in statements
    )
    if not closed:
        yield "the bucket answers without TLS"


def backend_faults(backend: str, source: str) -> Iterator[str]:
    """Say what is wrong with how the cluster's state is kept: *backend* as aws_state prints it,
    *source* as aws_cluster has it."""
    lines = dict(re.findall(r"^(\w+)\s*=\s*(.+)$", backend, re.MULTILINE))
    if lines.get("encrypt") != "true":
        yield "the state is sent without asking for encryption"
    if lines.get("use_lockfile") != "true":
        yield "two applies can run at once"
    if not {"bucket", "key", "region"} <= lines.keys():
        yield "the backend does not say where the state is"
    if not re.search(r'^\s*backend "s3"', source, re.MULTILINE):
        yield "the state stays on one machine"


def valid_bucket_name(name: str) -> bool:
    """Whether S3 takes it: docs.aws.amazon.com, "General purpose bucket naming rules"."""
    return bool(
        re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", name)
        and ".." not in name
        and not re.fullmatch(r"[0-9.]+", name)
        and not name.startswith(("xn--", "sthree-", "amzn-s3-demo-"))
        and not name.endswith(("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"))
    )


def _named(plan: Plan, prefix: str) -> Sequence[Values]:
    return [values for address, values in plan.resources.items() if address.startswith(prefix)]


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]
