output "bucket" {
  description = "The bucket of the state."
  value       = aws_s3_bucket.state.bucket
}

output "backend" {
  description = "Arguments for `terraform init -backend-config=FILE` in aws_cluster."
  value = join("\n", concat(
    [
      "bucket       = \"${aws_s3_bucket.state.bucket}\"",
      "region       = \"${var.region}\"",
      "key          = \"aws_cluster/terraform.tfstate\"",
      "encrypt      = true",
      "use_lockfile = true",
    ],
    [for table in aws_dynamodb_table.lock : "dynamodb_table = \"${table.name}\""],
  ))
}
