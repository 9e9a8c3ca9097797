"""What the plan of `gcp_bench` does, held to what it must do.  Pure."""

import ipaddress
from collections.abc import Collection, Iterator

from tests.terraform.plan import Plan, Values

# Where Identity-Aware Proxy forwards from: cloud.google.com/iap/docs/using-tcp-forwarding.
IAP = ipaddress.ip_network("35.235.240.0/20")
MOST_CLIENTS = 2**25

ROLES = {"roles/logging.logWriter", "roles/monitoring.metricWriter"}
OPERATOR_ROLES = {
    "roles/iap.tunnelResourceAccessor",
    "roles/compute.osAdminLogin",
    "roles/iam.serviceAccountUser",
}
SERVICES = {"compute.googleapis.com", "iam.googleapis.com", "iap.googleapis.com"}
LONGEST_RUN_S = 24 * 3600


def bench_faults(plan: Plan, fleet_ports: Collection[int]) -> list[str]:
    """Return what is wrong with the plan, for a fleet that listens on *fleet_ports*."""
    return [
        *_firewall_faults(plan, fleet_ports),
        *_machine_faults(plan),
        *_identity_faults(plan),
        *_network_faults(plan),
    ]


def _firewall_faults(plan: Plan, fleet_ports: Collection[int]) -> Iterator[str]:
    tunnelled: set[str] = set()
    for name, rule in plan.named("google_compute_firewall").items():
        sources = [ipaddress.ip_network(source) for source in rule.get("source_ranges") or []]
        ports = {port for allowed in rule["allow"] for port in allowed.get("ports") or ["any"]}
        if rule["direction"] != "INGRESS" or not sources:
            yield f"{name} does not say who may come in"
        if not rule.get("target_service_accounts"):
            yield f"{name} holds for every machine of the network"
        if sources == [IAP]:
            tunnelled |= ports
        elif "22" in ports or "any" in ports or any("-" in port for port in ports):
            yield f"{name} opens SSH, or ports that nothing listens on"
        if sum(source.num_addresses for source in sources) > MOST_CLIENTS:
            yield f"{name} admits most of the internet"
        if {allowed["protocol"] for allowed in rule["allow"]} != {"tcp"}:
            yield f"{name} admits more than TCP"
    if missing := {str(port) for port in (22, *fleet_ports)} - tunnelled:
        yield f"the tunnel does not reach {sorted(missing)}"


def _machine_faults(plan: Plan) -> Iterator[str]:
    (machine,) = plan.of("google_compute_instance")
    metadata = machine["metadata"]
    for name, wanted in (
        ("enable-oslogin", "TRUE"),
        ("block-project-ssh-keys", "TRUE"),
        ("serial-port-enable", "FALSE"),
    ):
        if metadata.get(name) != wanted:
            yield f"metadata {name} is {metadata.get(name)}; it must be {wanted}"
    if "prepare-bench: done" not in metadata.get("startup-script", "") and (
        'log "done"' not in metadata.get("startup-script", "")
    ):
        yield "nothing prepares the machine"
    shielded: Values = next(iter(machine["shielded_instance_config"] or []), {})
    for flag in ("enable_secure_boot", "enable_vtpm", "enable_integrity_monitoring"):
        if shielded.get(flag) is not True:
            yield f"{flag} is off"
    scheduling: Values = machine["scheduling"][0]
    if scheduling["on_host_maintenance"] != "TERMINATE":
        yield "a machine with GPUs cannot be moved, and is not created"
    ends: Values = next(iter(scheduling.get("max_run_duration") or []), {})
    if not 0 < (ends.get("seconds") or 0) <= LONGEST_RUN_S:
        yield "the machine runs, and costs, until somebody remembers it"
    if ends and scheduling.get("instance_termination_action") != "STOP":
        yield "the machine is deleted, with its disk, at its end"
    opened = any("clients" in name for name in plan.named("google_compute_firewall"))
    if bool(machine["network_interface"][0].get("access_config")) != opened:
        yield "a public address without a firewall rule for it, or the other way round"
    if machine["boot_disk"][0]["initialize_params"][0]["size"] < 100:
        yield "the images do not fit the boot disk"
    (cache,) = plan.of("google_compute_disk")
    if cache["size"] < 150:
        yield "the models do not fit their disk"
    if [it["source"] for it in machine["attached_disk"] or []] != [cache["id"]]:
        yield "the models' disk is not attached"


def _identity_faults(plan: Plan) -> Iterator[str]:
    (account,) = plan.of("google_service_account")
    (machine,) = plan.of("google_compute_instance")
    if machine["service_account"][0]["email"] != account["email"]:
        yield "the machine acts as another account"
    roles = {it["role"] for it in plan.of("google_project_iam_member")}
    if roles != ROLES:
        yield f"the machine has the roles {sorted(roles)}; it must have {sorted(ROLES)}"
    for kind in ("google_compute_instance_iam_member", "google_iap_tunnel_instance_iam_member"):
        for it in plan.of(kind):
            if it["role"] not in OPERATOR_ROLES:
                yield f"an operator has {it['role']}"
    for kind in ("google_project_iam_member", "google_service_account_iam_member"):
        for it in plan.of(kind):
            if str(it.get("member")) in ("allUsers", "allAuthenticatedUsers"):
                yield "everybody has a role"


def _network_faults(plan: Plan) -> Iterator[str]:
    (network,) = plan.of("google_compute_network")
    (subnet,) = plan.of("google_compute_subnetwork")
    if network["auto_create_subnetworks"]:
        yield "the network has subnets that nobody asked for"
    if subnet["network"] != network["id"] or not subnet["private_ip_google_access"]:
        yield "the subnet does not reach Google's own services"
    if not plan.of("google_compute_router_nat"):
        yield "a machine without a public address downloads nothing"
    if missing := SERVICES - {it["service"] for it in plan.of("google_project_service")}:
        yield f"{', '.join(sorted(missing))} may be off in the project"
