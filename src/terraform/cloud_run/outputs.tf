output "url" {
  description = "Address of the service"
  value       = google_cloud_run_v2_service.this.uri
}

output "service_account" {
  description = "Account that the service runs as"
  value       = google_service_account.this.email
}
