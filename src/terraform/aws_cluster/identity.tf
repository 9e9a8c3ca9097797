data "aws_iam_policy_document" "assumed_by_instances" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "node" {
  name_prefix        = "${substr(var.name, 0, 25)}-node-"
  description        = "A node: shells through SSM, images from ECR, and nothing else"
  assume_role_policy = data.aws_iam_policy_document.assumed_by_instances.json
}

resource "aws_iam_role_policy_attachment" "node" {
  for_each = toset(["AmazonSSMManagedInstanceCore", "AmazonEC2ContainerRegistryPullOnly"])
  role     = aws_iam_role.node.name
  # The partition is aws-cn in China and aws-us-gov for the government.
  policy_arn = "arn:${data.aws_partition.current.partition}:iam::aws:policy/${each.value}"
}

data "aws_partition" "current" {}

resource "aws_iam_instance_profile" "node" {
  name_prefix = "${substr(var.name, 0, 25)}-node-"
  role        = aws_iam_role.node.name
}
