data "aws_partition" "current" {}

data "aws_caller_identity" "current" {}

locals {
  # The control plane writes how to join and how to reach the cluster; workers read how to join.
  access_parameters = "arn:${data.aws_partition.current.partition}:ssm:${var.region}:${data.aws_caller_identity.current.account_id}:parameter/${var.name}"
  node_permissions = {
    control-plane = {
      Effect   = "Allow"
      Action   = ["ssm:PutParameter"]
      Resource = ["${local.access_parameters}/join", "${local.access_parameters}/kubeconfig"]
    }
    worker = {
      Effect   = "Allow"
      Action   = ["ssm:GetParameter"]
      Resource = ["${local.access_parameters}/join"]
    }
  }
}

resource "aws_iam_role" "node" {
  for_each    = local.node_permissions
  name_prefix = "${substr(var.name, 0, 18)}-${each.key}-"
  description = "A ${each.key} node: shells through SSM, images from ECR, the parameters of the join"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ec2.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "node" {
  for_each = {
    for pair in setproduct(keys(local.node_permissions), ["AmazonSSMManagedInstanceCore", "AmazonEC2ContainerRegistryPullOnly"]) :
    "${pair[0]}-${pair[1]}" => { role = pair[0], policy = pair[1] }
  }
  role = aws_iam_role.node[each.value.role].name
  # The partition is aws-cn in China and aws-us-gov for the government.
  policy_arn = "arn:${data.aws_partition.current.partition}:iam::aws:policy/${each.value.policy}"
}

resource "aws_iam_role_policy" "join" {
  for_each = local.node_permissions
  name     = "join"
  role     = aws_iam_role.node[each.key].name
  policy   = jsonencode({ Version = "2012-10-17", Statement = [each.value] })
}

resource "aws_iam_instance_profile" "node" {
  for_each    = local.node_permissions
  name_prefix = "${substr(var.name, 0, 18)}-${each.key}-"
  role        = aws_iam_role.node[each.key].name
}

# Here, so that `destroy` removes them.  The control plane writes the values; with value_wo they never
# come into the state.
resource "aws_ssm_parameter" "access" {
  #checkov:skip=CKV_AWS_337:the account's SSM key; a key of a customer costs more than it protects here
  for_each         = toset(["join", "kubeconfig"])
  name             = "/${var.name}/${each.value}"
  description      = each.value == "join" ? "kubeadm's join command" : "kubeconfig of the cluster's administrator"
  type             = "SecureString"
  tier             = each.value == "join" ? "Standard" : "Advanced"
  value_wo         = "pending"
  value_wo_version = 1
}
