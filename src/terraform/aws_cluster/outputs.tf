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
