# The service that `cloudrun manifest` prints, field by field; a test holds the two together.
locals {
  gpu  = jsondecode(file("${path.module}/gpus.json"))[var.gpu]
  port = 8000

  # Kernels are compiled for the GPU that is deployed.
  variables = merge({ TORCH_CUDA_ARCH_LIST = local.gpu.arch }, var.variables)
}

resource "google_cloud_run_v2_service" "this" {
  name                = var.name
  location            = var.region
  launch_stage        = "GA"
  deletion_protection = false

  template {
    service_account                  = google_service_account.this.email
    timeout                          = "600s"
    max_instance_request_concurrency = var.concurrency
    execution_environment            = "EXECUTION_ENVIRONMENT_GEN2"
    gpu_zonal_redundancy_disabled    = true

    scaling {
      min_instance_count = var.min_instances
      max_instance_count = var.max_instances
    }

    node_selector {
      accelerator = var.gpu
    }

    containers {
      image = var.image

      ports {
        name           = "http1"
        container_port = local.port
      }

      resources {
        limits = {
          "cpu"            = tostring(coalesce(var.cpu, local.gpu.cpu))
          "memory"         = "${coalesce(var.memory_gib, local.gpu.memory_gib)}Gi"
          "nvidia.com/gpu" = "1"
        }
        # GPUs are billed by the instance, so its CPU is there between requests as well.
        cpu_idle          = false
        startup_cpu_boost = true
      }

      # 60 x 10 s; the container says why after 570 s.
      startup_probe {
        initial_delay_seconds = 10
        period_seconds        = 10
        timeout_seconds       = 5
        failure_threshold     = 60
        http_get {
          path = "/health"
          port = local.port
        }
      }

      # The container ends by itself when its engine is dead; this is for a front that does not answer.
      liveness_probe {
        period_seconds    = 30
        timeout_seconds   = 5
        failure_threshold = 3
        http_get {
          path = "/health"
          port = local.port
        }
      }

      dynamic "env" {
        for_each = local.variables
        content {
          name  = env.key
          value = env.value
        }
      }

      dynamic "env" {
        for_each = var.secrets
        content {
          name = env.key
          value_source {
            secret_key_ref {
              secret  = split(":", env.value)[0]
              version = split(":", env.value)[1]
            }
          }
        }
      }

      dynamic "volume_mounts" {
        for_each = var.compile_cache_bucket == "" ? [] : ["compile-cache"]
        content {
          name       = volume_mounts.value
          mount_path = "/compile-cache"
        }
      }
    }

    dynamic "volumes" {
      for_each = var.compile_cache_bucket == "" ? [] : ["compile-cache"]
      content {
        name = volumes.value
        gcs {
          bucket    = var.compile_cache_bucket
          read_only = true
        }
      }
    }
  }

  lifecycle {
    precondition {
      condition     = coalesce(var.cpu, local.gpu.cpu) >= local.gpu.min_cpu && coalesce(var.memory_gib, local.gpu.memory_gib) >= local.gpu.min_memory_gib
      error_message = "This GPU needs more CPUs or more memory; see gpus.json."
    }
  }

  # It reads its secrets when it starts.
  depends_on = [google_secret_manager_secret_iam_member.read]
}
