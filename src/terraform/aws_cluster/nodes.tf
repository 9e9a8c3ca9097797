data "aws_ssm_parameter" "ami" {
  count = var.ami_id == "" ? 1 : 0
  name  = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
}

data "aws_ssm_parameter" "gpu_ami" {
  count = var.gpu_ami_id == "" ? 1 : 0
  name  = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
}

locals {
  ami     = var.ami_id != "" ? var.ami_id : data.aws_ssm_parameter.ami[0].insecure_value
  gpu_ami = var.gpu_ami_id != "" ? var.gpu_ami_id : data.aws_ssm_parameter.gpu_ami[0].insecure_value

  control_plane = {
    "${var.name}-master" = {
      role          = "control-plane"
      instance_type = var.control_plane_instance_type
      ami           = local.ami
      volume_gb     = var.root_volume_gb
      zone          = local.zones[0]
    }
  }
  workers = {
    for index in range(var.worker_count) :
    "${var.name}-worker${index == 0 ? "" : "-${index + 1}"}" => {
      role          = "worker"
      instance_type = var.worker_instance_type
      ami           = local.ami
      volume_gb     = var.root_volume_gb
      zone          = local.zones[index % var.zone_count]
    }
  }
  gpu_workers = {
    for index in range(var.gpu_worker_count) :
    "${var.name}-gpu-worker${index == 0 ? "" : "-${index + 1}"}" => {
      role          = "gpu-worker"
      instance_type = var.gpu_worker_instance_type
      ami           = local.gpu_ami
      volume_gb     = var.gpu_root_volume_gb
      zone          = local.zones[index % var.zone_count]
    }
  }
  nodes = merge(local.control_plane, local.workers, local.gpu_workers)

  # What a node runs from its first boot until it is part of the cluster.
  cluster_scripts = {
    control-plane = ["common.sh", "install-k8s.sh", "init-master.sh", "bootstrap-node.sh"]
    worker        = ["common.sh", "install-k8s.sh", "bootstrap-node.sh"]
    gpu-worker    = ["common.sh", "install-k8s.sh", "install-gpu-drivers.sh", "bootstrap-node.sh"]
  }
  scripts_folder = "${path.module}/../../kubernetes/cluster"
  # Without comments: EC2 takes 16 KiB.
  user_data = { for name, node in local.nodes : name => join("\n", concat(
    [
      "#!/usr/bin/env bash",
      "export NODE_NAME='${name}'",
      "mkdir -p \"$${ROOT:-}/opt/servekit\"",
      "cat >\"$${ROOT:-}/opt/servekit/node.env\" <<'END_OF_FILE'",
      "NODE_ROLE=${node.role}",
      "ACCESS_PARAMETERS=/${var.name}",
      "AWS_REGION=${var.region}",
      "POD_CIDR=${var.pod_cidr}",
      "SERVICE_CIDR=${var.service_cidr}",
      "END_OF_FILE",
    ],
    [
      for script in local.cluster_scripts[node.role] :
      "cat >\"$${ROOT:-}/opt/servekit/${script}\" <<'END_OF_FILE'\n${replace(file("${local.scripts_folder}/${script}"), "/(?m)^ *# .*\n/", "")}END_OF_FILE"
    ],
    ["chmod +x \"$${ROOT:-}\"/opt/servekit/*.sh"],
    [file("${path.module}/prepare-node.sh")],
  )) }
}

resource "aws_instance" "node" {
  #checkov:skip=CKV_AWS_126:detailed monitoring is Prometheus's work here
  for_each               = local.nodes
  ami                    = each.value.ami
  instance_type          = each.value.instance_type
  subnet_id              = aws_subnet.private[each.value.zone].id
  iam_instance_profile   = aws_iam_instance_profile.node[each.value.role == "control-plane" ? "control-plane" : "worker"].name
  ebs_optimized          = true
  vpc_security_group_ids = concat([aws_security_group.node.id], each.value.role == "control-plane" ? [aws_security_group.control_plane.id] : [])
  # A packet with a pod's address must not be dropped by the instance that sends it.
  source_dest_check = false

  user_data = local.user_data[each.key]

  metadata_options {
    http_endpoint = "enabled"
    http_tokens   = "required"
    # Tokens do not reach pods; what must (ECR's credentials) runs in the host's network.
    http_put_response_hop_limit = 1
  }

  dynamic "instance_market_options" {
    for_each = var.gpu_spot && each.value.role == "gpu-worker" ? ["spot"] : []
    content {
      market_type = "spot"
      spot_options {
        spot_instance_type = "one-time"
      }
    }
  }

  root_block_device {
    encrypted   = true
    kms_key_id  = var.ebs_kms_key_id
    volume_type = "gp3"
    volume_size = each.value.volume_gb
  }

  tags = { Name = each.key, Role = each.value.role }

  lifecycle {
    # A newer image, or another line in the script, must not replace a node that serves.
    ignore_changes = [ami, user_data]
    precondition {
      condition     = length(each.key) <= 63
      error_message = "${each.key} is longer than a host name may be (63); choose a shorter name."
    }
    precondition {
      condition     = length(local.user_data[each.key]) <= 16384
      error_message = "The user data of ${each.key} is larger than EC2 takes (16384 bytes); shorten the scripts of src/kubernetes/cluster."
    }
  }
}
