# Where the images of src/kubernetes come from; build-support/images/push fills it.
locals {
  images   = toset(["chat", "chat_backend", "managed_lb", "model_server"])
  registry = "${data.aws_caller_identity.current.account_id}.dkr.ecr.${var.region}.${data.aws_partition.current.dns_suffix}"
}

resource "aws_ecr_repository" "image" {
  #checkov:skip=CKV_AWS_136:AES-256 by ECR; a key of a customer costs more than it protects here
  for_each = local.images
  name     = "servekit/${each.value}"
  # A version is pushed once, so a node that has it need not ask for it again.
  image_tag_mutability = "IMMUTABLE"
  force_delete         = true

  image_scanning_configuration {
    scan_on_push = true
  }

  encryption_configuration {
    encryption_type = "AES256"
  }
}

resource "aws_ecr_lifecycle_policy" "image" {
  for_each   = aws_ecr_repository.image
  repository = each.value.name
  policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "Keep ten versions"
      selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = 10 }
      action       = { type = "expire" }
    }]
  })
}
