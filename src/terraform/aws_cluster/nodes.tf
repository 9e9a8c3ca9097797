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
}

resource "aws_instance" "node" {
  #checkov:skip=CKV_AWS_126:detailed monitoring is Prometheus's work here
  for_each               = local.nodes
  ami                    = each.value.ami
  instance_type          = each.value.instance_type
  subnet_id              = aws_subnet.private[each.value.zone].id
  iam_instance_profile   = aws_iam_instance_profile.node.name
  ebs_optimized          = true
  vpc_security_group_ids = concat([aws_security_group.node.id], each.value.role == "control-plane" ? [aws_security_group.control_plane.id] : [])
  # Pods have addresses of their own (Calico, IPIP), which EC2 would drop.
  source_dest_check = false

  user_data = join("\n", [
    "#!/usr/bin/env bash",
    "export NODE_NAME='${each.key}'",
    file("${path.module}/prepare-node.sh"),
  ])

  metadata_options {
    http_endpoint = "enabled"
    http_tokens   = "required"
    # Tokens do not reach pods; what must (ECR's credentials) runs in the host's network.
    http_put_response_hop_limit = 1
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
  }
}
