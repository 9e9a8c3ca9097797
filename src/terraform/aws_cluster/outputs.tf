output "nodes" {
  description = "Instance, role and address of each node, by name."
  value = {
    for name, node in aws_instance.node :
    name => { instance_id = node.id, role = local.nodes[name].role, private_ip = node.private_ip }
  }
}

output "ssm_commands" {
  description = "A shell on each node."
  value       = { for name, node in aws_instance.node : name => "aws ssm start-session --region ${var.region} --target ${node.id}" }
}

output "vpc_id" {
  description = "The VPC."
  value       = aws_vpc.this.id
}

output "registry" {
  description = "Registry of the images, for build-support/images/push."
  value       = local.registry
}

output "deploy" {
  description = "What src/kubernetes/deploy needs: `terraform output -json deploy`."
  value = {
    region        = var.region
    registry      = local.registry
    control_plane = aws_instance.node["${var.name}-master"].id
    page_node     = aws_instance.node["${var.name}-worker"].id
    kubeconfig    = aws_ssm_parameter.access["kubeconfig"].name
    gpu_workers   = length(local.gpu_workers)
  }
}

output "chat_url" {
  description = "Address of the public load balancer; null without one.  The certificate's name must point to it."
  value       = one([for balancer in aws_lb.public : "https://${balancer.dns_name}"])
}

locals {
  # vCPUs and on-demand prices (USD an hour, Linux, us-east-1, list prices of 2025); null: not listed here.
  gpu_types = {
    "g4dn.xlarge"   = { vcpus = 4, usd_per_hour = 0.526 }
    "g4dn.12xlarge" = { vcpus = 48, usd_per_hour = 3.912 }
    "g5.xlarge"     = { vcpus = 4, usd_per_hour = 1.006 }
    "g6.xlarge"     = { vcpus = 4, usd_per_hour = 0.805 }
    "g6e.xlarge"    = { vcpus = 4, usd_per_hour = 1.861 }
  }
}

output "gpu_quota" {
  description = "Quota that the GPU workers need, and their on-demand price per hour in us-east-1; null where the type is not listed in outputs.tf."
  value = {
    quota        = "Running ${var.gpu_spot ? "Spot" : "On-Demand"} ${substr(var.gpu_worker_instance_type, 0, 1) == "p" ? "P" : "G and VT"} instances"
    vcpus        = try(local.gpu_types[var.gpu_worker_instance_type].vcpus * var.gpu_worker_count, null)
    usd_per_hour = try(local.gpu_types[var.gpu_worker_instance_type].usd_per_hour * var.gpu_worker_count, null)
  }
}
