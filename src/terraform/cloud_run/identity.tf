# An account of its own, that may read its secrets and its bucket and nothing else.
resource "google_service_account" "this" {
  account_id   = substr("run-${var.name}", 0, 30)
  display_name = "Cloud Run service ${var.name}"
}

resource "google_secret_manager_secret_iam_member" "read" {
  for_each  = toset([for secret in values(var.secrets) : split(":", secret)[0]])
  secret_id = each.value
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.this.member
}

resource "google_storage_bucket_iam_member" "read" {
  for_each = var.compile_cache_bucket == "" ? toset([]) : toset([var.compile_cache_bucket])
  bucket   = each.value
  role     = "roles/storage.objectViewer"
  member   = google_service_account.this.member
}

# Nobody may call it who is not named.
resource "google_cloud_run_v2_service_iam_member" "invoke" {
  for_each = var.invokers
  name     = google_cloud_run_v2_service.this.name
  location = google_cloud_run_v2_service.this.location
  role     = "roles/run.invoker"
  member   = each.value
}
