mock_provider "google" {
  mock_resource "google_service_account" {
    defaults = {
      email  = "run-vllm@example-project.iam.gserviceaccount.com"
      member = "serviceAccount:run-vllm@example-project.iam.gserviceaccount.com"
    }
  }
}

variables {
  project = "example-project"
  image   = "us-central1-docker.pkg.dev/example-project/servekit/cloudrun:1"
}

run "one_l4_and_nobody_is_let_in" {
  command = plan

  assert {
    condition     = google_cloud_run_v2_service.this.template[0].containers[0].resources[0].limits["memory"] == "32Gi"
    error_message = "an L4 has 32 GiB"
  }
  assert {
    condition     = length(google_cloud_run_v2_service_iam_member.invoke) == 0
    error_message = "nobody may call it who is not named"
  }
}

run "an_unknown_gpu_is_refused" {
  command = plan
  variables {
    gpu = "nvidia-h100"
  }
  expect_failures = [var.gpu]
}

run "a_secret_is_no_variable" {
  command = plan
  variables {
    variables = { HF_TOKEN = "hf_x" }
  }
  expect_failures = [var.variables]
}

run "a_large_gpu_needs_a_large_instance" {
  command = plan
  variables {
    gpu = "nvidia-rtx-pro-6000"
    cpu = 8
  }
  expect_failures = [google_cloud_run_v2_service.this]
}

run "only_its_own_secrets_are_read" {
  command = plan
  variables {
    secrets = { VLLM_API_KEY = "vllm-key:latest" }
  }
  assert {
    condition     = keys(google_secret_manager_secret_iam_member.read) == ["vllm-key"]
    error_message = "the account reads the secrets that are named"
  }
}
