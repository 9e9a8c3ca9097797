mock_provider "google" {
  mock_resource "google_service_account" {
    defaults = {
      email  = "servekit-bench-node@example-project.iam.gserviceaccount.com"
      name   = "projects/example-project/serviceAccounts/servekit-bench-node"
      member = "serviceAccount:servekit-bench-node@example-project.iam.gserviceaccount.com"
    }
  }
  # With or without a public address: the test says which.
  mock_resource "google_compute_instance" {
    defaults = {
      network_interface = { network_ip = "10.20.0.2", access_config = { nat_ip = "203.0.113.99" } }
    }
  }
}

variables {
  project = "example-project"
}

run "one_machine_for_the_fleet" {
  command = plan

  assert {
    condition     = google_compute_instance.this.machine_type == "a3-highgpu-8g"
    error_message = "eight H100"
  }
  assert {
    condition     = google_compute_disk.model_cache.size == 500 && google_compute_disk.model_cache.type == "pd-ssd"
    error_message = "models have a disk of their own"
  }
  assert {
    condition     = google_compute_instance.this.scheduling[0].on_host_maintenance == "TERMINATE"
    error_message = "Google refuses a GPU machine that wants to be moved"
  }
  assert {
    condition     = google_compute_instance.this.network_interface[0].nic_type == "GVNIC"
    error_message = "the a3 family takes no other card"
  }
  assert {
    condition     = google_compute_subnetwork.this.region == "us-central1" && google_compute_router_nat.this.region == "us-central1"
    error_message = "the region is the zone's"
  }
}

run "nobody_comes_in_by_default" {
  command = plan

  assert {
    condition     = length(google_compute_firewall.clients) == 0
    error_message = "no rule for the outside"
  }
  assert {
    condition     = length(google_compute_instance.this.network_interface[0].access_config) == 0
    error_message = "no public address"
  }
  assert {
    condition     = google_compute_firewall.tunnel.source_ranges == toset(["35.235.240.0/20"])
    error_message = "Identity-Aware Proxy only"
  }
  assert {
    condition     = google_compute_instance.this.metadata["enable-oslogin"] == "TRUE" && google_compute_instance.this.metadata["block-project-ssh-keys"] == "TRUE"
    error_message = "who logs in is IAM's decision"
  }
}

run "the_tunnel_reaches_what_the_fleet_listens_on" {
  command = plan

  assert {
    condition = toset(tolist(google_compute_firewall.tunnel.allow)[0].ports) == toset([
      "22", "8001", "8002", "8003", "8004", "8005", "8006", "8080", "8081",
    ])
    error_message = "SSH, six engines, two load balancers"
  }
  assert {
    condition     = output.tunnel_commands["8081"] == "gcloud compute start-iap-tunnel servekit-bench 8081 --local-host-port=localhost:8081 --project=example-project --zone=us-central1-a"
    error_message = "a command per port"
  }
  assert {
    condition     = output.ssh_command == "gcloud compute ssh servekit-bench --project=example-project --zone=us-central1-a --tunnel-through-iap"
    error_message = "a shell without a public address"
  }
}

run "a_client_gets_the_ports_and_no_ssh" {
  command = plan
  variables {
    client_cidrs = ["203.0.113.7/32"]
  }

  assert {
    condition     = google_compute_firewall.clients[0].source_ranges == toset(["203.0.113.7/32"])
    error_message = "that address and no other"
  }
  assert {
    condition     = !contains(tolist(google_compute_firewall.clients[0].allow)[0].ports, "22")
    error_message = "SSH stays behind Identity-Aware Proxy"
  }
  assert {
    condition     = length(google_compute_instance.this.network_interface[0].access_config) == 1
    error_message = "an address to come to"
  }
}

run "refuses_the_whole_internet" {
  command = plan
  variables {
    client_cidrs = ["203.0.113.7/32", "0.0.0.0/0"]
  }
  expect_failures = [var.client_cidrs]
}

run "refuses_the_whole_internet_by_another_name" {
  command = plan
  variables {
    client_cidrs = ["10.0.0.0/0"]
  }
  expect_failures = [var.client_cidrs]
}

run "lets_the_whole_internet_in_when_told_twice" {
  command = plan
  variables {
    client_cidrs     = ["0.0.0.0/0"]
    allow_any_client = true
  }
  assert {
    condition     = google_compute_firewall.clients[0].source_ranges == toset(["0.0.0.0/0"])
    error_message = "as was asked"
  }
}

run "refuses_what_is_no_range" {
  command = plan
  variables {
    client_cidrs = ["my-laptop"]
  }
  expect_failures = [var.client_cidrs]
}

run "the_machine_may_write_logs_and_metrics" {
  command = plan

  assert {
    condition     = toset([for grant in google_project_iam_member.writes : grant.role]) == toset(["roles/logging.logWriter", "roles/monitoring.metricWriter"])
    error_message = "least rights"
  }
  assert {
    condition     = length(google_artifact_registry_repository_iam_member.pulls) == 0
    error_message = "images of ours only where a repository is named"
  }
}

run "operators_log_in_to_this_machine_only" {
  command = plan
  variables {
    operators        = ["user:ann@example.com"]
    image_repository = "projects/example-project/locations/us/repositories/images"
  }
  assert {
    condition     = google_iap_tunnel_instance_iam_member.operator["user:ann@example.com"].instance == "servekit-bench" && google_compute_instance_iam_member.operator["user:ann@example.com"].role == "roles/compute.osAdminLogin"
    error_message = "the tunnel and the login"
  }
  assert {
    condition     = google_artifact_registry_repository_iam_member.pulls[0].role == "roles/artifactregistry.reader"
    error_message = "images may be pulled, not pushed"
  }
}

run "refuses_an_operator_that_is_everybody" {
  command = plan
  variables {
    operators = ["allAuthenticatedUsers"]
  }
  expect_failures = [var.operators]
}

run "spot_stops_and_keeps_its_disks" {
  command = plan
  variables {
    spot = true
  }
  assert {
    condition     = google_compute_instance.this.scheduling[0].provisioning_model == "SPOT" && google_compute_instance.this.scheduling[0].preemptible && !google_compute_instance.this.scheduling[0].automatic_restart
    error_message = "Google wants these three together"
  }
  assert {
    condition     = google_compute_instance.this.scheduling[0].instance_termination_action == "STOP"
    error_message = "a deleted instance would take the boot disk along"
  }
}

run "stops_by_itself_when_told" {
  command = plan
  variables {
    max_run_hours = 6
  }
  assert {
    condition     = google_compute_instance.this.scheduling[0].max_run_duration[0].seconds == 21600 && google_compute_instance.this.scheduling[0].instance_termination_action == "STOP"
    error_message = "six hours"
  }
}

run "a_stopped_machine_keeps_its_models" {
  command = plan
  variables {
    running = false
  }
  assert {
    condition     = google_compute_instance.this.desired_status == "TERMINATED" && google_compute_disk.model_cache.name == "servekit-bench-model-cache"
    error_message = "stopped, with the disk"
  }
}

run "refuses_a_machine_without_gpus" {
  command = plan
  variables {
    machine_type = "n2-standard-8"
  }
  expect_failures = [var.machine_type]
}

run "refuses_a_region_for_a_zone" {
  command = plan
  variables {
    zone = "us-central1"
  }
  expect_failures = [var.zone]
}

run "refuses_a_disk_the_models_do_not_fit" {
  command = plan
  variables {
    model_cache_gb = 100
  }
  expect_failures = [var.model_cache_gb]
}

run "prints_the_public_address_where_there_is_one" {
  variables {
    client_cidrs = ["203.0.113.7/32"]
  }
  assert {
    condition     = output.instance_ip == "203.0.113.99"
    error_message = "where the clients go"
  }
}

run "prints_the_inner_address_where_there_is_none" {
  assert {
    condition     = output.instance_ip == "10.20.0.2"
    error_message = "where other machines of the network go"
  }
}
