locals {
  region = join("-", slice(split("-", var.zone), 0, 2))
  # Of the fleet files and the load balancers; a test holds them together.
  ports = jsondecode(file("${path.module}/ports.json"))
  # Without a public address the only way in is Google's Identity-Aware Proxy.
  public = length(var.client_cidrs) > 0
  # Where Identity-Aware Proxy forwards TCP from: cloud.google.com/iap/docs/using-tcp-forwarding.
  iap_range = "35.235.240.0/20"
}

resource "google_compute_network" "this" {
  name                    = var.name
  auto_create_subnetworks = false
  depends_on              = [google_project_service.this]
}

resource "google_compute_subnetwork" "this" {
  name                     = var.name
  network                  = google_compute_network.this.id
  region                   = local.region
  ip_cidr_range            = "10.20.0.0/24"
  private_ip_google_access = true

  log_config {
    aggregation_interval = "INTERVAL_10_MIN"
    # One flow in twenty: enough to see who came, and no noise beside a measurement.
    flow_sampling = 0.05
    metadata      = "INCLUDE_ALL_METADATA"
  }
}

resource "google_compute_router" "this" {
  name    = var.name
  network = google_compute_network.this.id
  region  = local.region
}

# Images, packages and weights come from outside, with or without a public address.
resource "google_compute_router_nat" "this" {
  name                               = var.name
  router                             = google_compute_router.this.name
  region                             = local.region
  nat_ip_allocate_option             = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat = "ALL_SUBNETWORKS_ALL_IP_RANGES"
}

resource "google_compute_firewall" "tunnel" {
  name                    = "${var.name}-tunnel"
  description             = "SSH and the fleet's ports, through Identity-Aware Proxy"
  network                 = google_compute_network.this.id
  direction               = "INGRESS"
  source_ranges           = [local.iap_range]
  target_service_accounts = [google_service_account.this.email]

  allow {
    protocol = "tcp"
    ports    = [for port in concat([22], local.ports.engines, local.ports.balancers) : tostring(port)]
  }
}

resource "google_compute_firewall" "clients" {
  count                   = local.public ? 1 : 0
  name                    = "${var.name}-clients"
  description             = "Load balancers and engines, and no SSH"
  network                 = google_compute_network.this.id
  direction               = "INGRESS"
  source_ranges           = var.client_cidrs
  target_service_accounts = [google_service_account.this.email]

  allow {
    protocol = "tcp"
    ports    = [for port in concat(local.ports.engines, local.ports.balancers) : tostring(port)]
  }
}
