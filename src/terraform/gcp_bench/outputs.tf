output "instance_ip" {
  description = "The public address where client_cidrs opens one, else the one inside the network."
  value = (
    local.public
    ? google_compute_instance.this.network_interface[0].access_config[0].nat_ip
    : google_compute_instance.this.network_interface[0].network_ip
  )
}

output "ssh_command" {
  description = "A shell through Identity-Aware Proxy."
  value       = "gcloud compute ssh ${var.name} --project=${var.project} --zone=${var.zone} --tunnel-through-iap"
}

output "tunnel_commands" {
  description = "Each port on this machine's loopback, without a public address."
  value = {
    for port in concat(local.ports.balancers, local.ports.engines) : tostring(port) =>
    "gcloud compute start-iap-tunnel ${var.name} ${port} --local-host-port=localhost:${port} --project=${var.project} --zone=${var.zone}"
  }
}
