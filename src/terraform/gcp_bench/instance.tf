resource "google_compute_disk" "model_cache" {
  name = "${var.name}-model-cache"
  type = var.model_cache_type
  zone = var.zone
  size = var.model_cache_gb

  dynamic "disk_encryption_key" {
    for_each = var.disk_kms_key == null ? [] : [var.disk_kms_key]
    content {
      kms_key_self_link = disk_encryption_key.value
    }
  }
}

resource "google_compute_instance" "this" {
  #checkov:skip=CKV_GCP_40:a public address is there only where client_cidrs says who may use it
  name         = var.name
  machine_type = var.machine_type
  zone         = var.zone
  # To another machine type, or to a stop, without losing disks.
  allow_stopping_for_update = true
  desired_status            = var.running ? "RUNNING" : "TERMINATED"

  boot_disk {
    kms_key_self_link = var.disk_kms_key
    initialize_params {
      # prepare-bench.sh brings the driver, from Ubuntu's signed modules.
      image = "ubuntu-os-cloud/ubuntu-2404-lts-amd64"
      size  = var.boot_disk_gb
      type  = var.model_cache_type
    }
  }

  attached_disk {
    source = google_compute_disk.model_cache.id
    # /dev/disk/by-id/google-model-cache on the machine.
    device_name = "model-cache"
  }

  network_interface {
    subnetwork = google_compute_subnetwork.this.id
    # The only one that the a3 family takes.
    nic_type = "GVNIC"

    dynamic "access_config" {
      for_each = local.public ? [1] : []
      content {}
    }
  }

  scheduling {
    # Machines with GPUs cannot be moved while they run.
    on_host_maintenance         = "TERMINATE"
    automatic_restart           = !var.spot
    preemptible                 = var.spot
    provisioning_model          = var.spot ? "SPOT" : "STANDARD"
    instance_termination_action = var.spot || var.max_run_hours > 0 ? "STOP" : null

    dynamic "max_run_duration" {
      for_each = var.max_run_hours > 0 ? [var.max_run_hours * 3600] : []
      content {
        seconds = max_run_duration.value
      }
    }
  }

  shielded_instance_config {
    enable_secure_boot          = true
    enable_vtpm                 = true
    enable_integrity_monitoring = true
  }

  service_account {
    email = google_service_account.this.email
    # IAM decides, as Google advises; the account's roles are in identity.tf.
    scopes = ["cloud-platform"]
  }

  metadata = {
    enable-oslogin         = "TRUE"
    block-project-ssh-keys = "TRUE"
    serial-port-enable     = "FALSE"
    startup-script         = file("${path.module}/prepare-bench.sh")
  }

  lifecycle {
    # A newer image must not replace a machine in the middle of a comparison.
    ignore_changes = [boot_disk[0].initialize_params[0].image]
  }
}
