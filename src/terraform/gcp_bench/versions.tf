# State stays in a file: the machine lives for hours, and the state holds no secret.
terraform {
  required_version = ">= 1.11"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 6.0"
    }
  }
}

provider "google" {
  project        = var.project
  region         = local.region
  zone           = var.zone
  default_labels = { project = var.name, managed-by = "terraform" }
}
