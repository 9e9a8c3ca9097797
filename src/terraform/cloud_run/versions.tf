# State stays where the caller keeps it; it holds the names of secrets, and no value.
terraform {
  required_version = ">= 1.11"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 6.50"
    }
  }
}

provider "google" {
  project        = var.project
  region         = var.region
  default_labels = { managed-by = "terraform" }
}
