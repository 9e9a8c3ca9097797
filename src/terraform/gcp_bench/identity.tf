# A new project has none of these enabled.
resource "google_project_service" "this" {
  for_each = toset(["compute.googleapis.com", "iam.googleapis.com", "iap.googleapis.com", "oslogin.googleapis.com"])
  project  = var.project
  service  = each.value
  # Another configuration in the project may use them too.
  disable_on_destroy = false
}

# What the machine may do, and who may log in to it.
resource "google_service_account" "this" {
  account_id   = "${var.name}-node"
  display_name = "The benchmark's machine: writes logs and metrics, and nothing else"
  depends_on   = [google_project_service.this]
}

resource "google_project_iam_member" "writes" {
  for_each = toset(["roles/logging.logWriter", "roles/monitoring.metricWriter"])
  project  = var.project
  role     = each.value
  member   = google_service_account.this.member
}

resource "google_artifact_registry_repository_iam_member" "pulls" {
  count      = var.image_repository == "" ? 0 : 1
  repository = var.image_repository
  role       = "roles/artifactregistry.reader"
  member     = google_service_account.this.member
}

resource "google_iap_tunnel_instance_iam_member" "operator" {
  for_each = var.operators
  project  = var.project
  zone     = var.zone
  instance = google_compute_instance.this.name
  role     = "roles/iap.tunnelResourceAccessor"
  member   = each.value
}

resource "google_compute_instance_iam_member" "operator" {
  for_each      = var.operators
  project       = var.project
  zone          = var.zone
  instance_name = google_compute_instance.this.name
  role          = "roles/compute.osAdminLogin"
  member        = each.value
}

# Who is root on a machine can act as its service account; OS Login asks that this be said.
resource "google_service_account_iam_member" "operator" {
  for_each           = var.operators
  service_account_id = google_service_account.this.name
  role               = "roles/iam.serviceAccountUser"
  member             = each.value
}
