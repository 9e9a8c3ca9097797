mock_provider "aws" {
  mock_data "aws_availability_zones" {
    defaults = { names = ["us-east-1a", "us-east-1b", "us-east-1c", "us-east-1d"] }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws", dns_suffix = "amazonaws.com" }
  }
  mock_data "aws_ssm_parameter" {
    defaults = { insecure_value = "ami-0123456789abcdef0" }
  }
  mock_resource "aws_instance" {
    defaults = { id = "i-0123456789abcdef0", private_ip = "10.10.128.10" }
  }
}

run "the_network_spans_three_zones" {
  command = plan

  assert {
    condition     = aws_vpc.this.cidr_block == "10.10.0.0/16"
    error_message = "addresses of the VPC"
  }
  assert {
    condition     = length(aws_subnet.public) == 3 && length(aws_subnet.private) == 3
    error_message = "a public and a private subnet in each of three zones"
  }
  assert {
    condition = length(distinct(concat(
      [for subnet in aws_subnet.public : subnet.cidr_block],
      [for subnet in aws_subnet.private : subnet.cidr_block],
    ))) == 6
    error_message = "no two subnets share addresses"
  }
  assert {
    condition     = !anytrue([for subnet in aws_subnet.public : subnet.map_public_ip_on_launch])
    error_message = "no machine gets a public address by being started"
  }
}

run "one_master_one_worker_one_gpu_worker" {
  command = plan

  assert {
    condition = {
      for name, node in aws_instance.node : name => node.instance_type
      } == {
      llama-k8s-platform-master     = "t3.medium"
      llama-k8s-platform-worker     = "t3.medium"
      llama-k8s-platform-gpu-worker = "g4dn.xlarge"
    }
    error_message = "nodes and instance types"
  }
  assert {
    condition     = aws_instance.node["llama-k8s-platform-gpu-worker"].root_block_device[0].volume_size == 100
    error_message = "the engine's image and the weights need room"
  }
}

# Before the first apply: a node that runs keeps its image.
run "grows_by_its_counts" {
  command = plan
  variables {
    gpu_worker_count         = 4
    gpu_worker_instance_type = "g6.xlarge"
    gpu_ami_id               = "ami-00000000000000001"
  }
  assert {
    condition     = length(aws_instance.node) == 6 && length([for node in aws_instance.node : node if node.ami == "ami-00000000000000001"]) == 4
    error_message = "four GPU workers of the image that was named"
  }
  assert {
    condition     = length(distinct([for name, node in aws_instance.node : node.ami if strcontains(name, "gpu")])) == 1
    error_message = "every GPU worker alike"
  }
}

run "machines_are_closed" {
  assert {
    condition     = alltrue([for node in aws_instance.node : node.metadata_options[0].http_tokens == "required"])
    error_message = "IMDSv2 only"
  }
  assert {
    condition     = alltrue([for node in aws_instance.node : node.root_block_device[0].encrypted])
    error_message = "disks are encrypted"
  }
  assert {
    condition = alltrue(concat(
      [for rule in aws_vpc_security_group_ingress_rule.node : rule.from_port != 22],
      [for rule in aws_vpc_security_group_ingress_rule.control_plane : rule.from_port != 22],
    ))
    error_message = "no SSH"
  }
  assert {
    condition     = alltrue([for rule in aws_vpc_security_group_ingress_rule.node_port : rule.cidr_ipv4 == "10.10.0.0/16"])
    error_message = "NodePorts answer the VPC only"
  }
}

run "kubernetes_and_calico_can_talk" {
  assert {
    condition = toset([for rule in aws_vpc_security_group_ingress_rule.control_plane : "${rule.from_port}-${rule.to_port}"]) == toset([
      "6443-6443", "2379-2380", "10257-10257", "10259-10259",
    ])
    error_message = "ports of the control plane"
  }
  assert {
    condition = toset([for rule in aws_vpc_security_group_ingress_rule.node : rule.ip_protocol]) == toset([
      "tcp", "udp", "4", "icmp",
    ])
    error_message = "kubelet, BGP and Typha (tcp), VXLAN (udp), IPIP (4), ping"
  }
  assert {
    condition     = !anytrue([for node in aws_instance.node : node.source_dest_check])
    error_message = "EC2 must not drop packets between pods"
  }
}

run "says_how_to_reach_each_node" {
  assert {
    condition     = output.ssm_commands["llama-k8s-platform-master"] == "aws ssm start-session --region us-east-1 --target i-0123456789abcdef0"
    error_message = "a shell without keys"
  }
  assert {
    condition     = strcontains(aws_instance.node["llama-k8s-platform-worker"].user_data, "export NODE_NAME='llama-k8s-platform-worker'")
    error_message = "a node learns its name from its user data"
  }
}

run "opens_node_ports_where_asked" {
  command = plan
  variables {
    node_port_cidrs = ["203.0.113.0/24"]
  }
  assert {
    condition     = length(aws_vpc_security_group_ingress_rule.node_port) == 2
    error_message = "the VPC and the range"
  }
}

run "refuses_the_whole_internet" {
  command = plan
  variables {
    node_port_cidrs = ["0.0.0.0/0"]
  }
  expect_failures = [var.node_port_cidrs]
}

run "refuses_a_gpu_worker_without_gpu" {
  command = plan
  variables {
    gpu_worker_instance_type = "t3.medium"
  }
  expect_failures = [var.gpu_worker_instance_type]
}

run "refuses_a_disk_the_image_does_not_fit" {
  command = plan
  variables {
    gpu_root_volume_gb = 40
  }
  expect_failures = [var.gpu_root_volume_gb]
}

run "says_where_images_come_from" {
  assert {
    condition     = output.registry == "123456789012.dkr.ecr.us-east-1.amazonaws.com"
    error_message = "the registry of the account"
  }
  assert {
    condition     = output.deploy.control_plane == "i-0123456789abcdef0" && output.deploy.kubeconfig == "/llama-k8s-platform/kubeconfig"
    error_message = "what src/kubernetes/deploy reads"
  }
  assert {
    condition     = output.chat_url == null
    error_message = "nothing is public by default"
  }
}

run "a_certificate_opens_the_chat_and_nothing_else" {
  command = plan
  variables {
    certificate_arn = "arn:aws:acm:us-east-1:123456789012:certificate/0a-1b"
    client_cidrs    = ["203.0.113.0/24"]
  }
  assert {
    condition     = aws_lb_listener.public["chat"].port == 443 && aws_lb_listener.public["chat"].protocol == "HTTPS"
    error_message = "TLS"
  }
  assert {
    condition     = length(aws_lb_target_group_attachment.public) == 1
    error_message = "the worker, on which the page runs"
  }
}

run "a_price_that_is_not_known_is_not_zero" {
  command = plan
  variables {
    gpu_worker_instance_type = "p5.48xlarge"
  }
  assert {
    condition     = output.gpu_quota.usd_per_hour == null && output.gpu_quota.quota == "Running On-Demand P instances"
    error_message = "null, and the quota of P instances"
  }
}
