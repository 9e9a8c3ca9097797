variable "name" {
  description = "Prefix of every name."
  type        = string
  default     = "llama-k8s-platform"
  validation {
    condition     = can(regex("^[a-z]([a-z0-9]|-[a-z0-9]){2,39}$", var.name)) && length(var.name) <= 40
    error_message = "name must be 3 to 40 lower-case letters, digits and single dashes, a letter first and no dash last: it becomes part of a bucket name."
  }
}

variable "region" {
  description = "AWS region of the state."
  type        = string
  default     = "us-east-1"
  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region must be a region such as us-east-1, not an availability zone."
  }
}

variable "bucket_name" {
  description = "Name of the bucket; empty for one made of the name and the account."
  type        = string
  default     = ""
  validation {
    # docs.aws.amazon.com, "General purpose bucket naming rules".
    condition = var.bucket_name == "" || (
      can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.bucket_name)) &&
      !can(regex("\\.\\.|^[0-9.]+$|^(xn--|sthree-|amzn-s3-demo-)|(-s3alias|--ol-s3|\\.mrap|--x-s3|--table-s3)$", var.bucket_name))
    )
    error_message = "bucket_name must be 3 to 63 lower-case letters, digits, dashes and single dots, a letter or digit first and last, and no IP address or reserved prefix or suffix."
  }
}

variable "old_versions_days" {
  description = "Days for which a replaced state can be brought back."
  type        = number
  default     = 90
  validation {
    condition     = var.old_versions_days >= 7 && var.old_versions_days == floor(var.old_versions_days)
    error_message = "old_versions_days must be a whole number, at least 7: a broken state is often noticed late."
  }
}

variable "lock_with_dynamodb" {
  description = "Also make the DynamoDB table that Terraform before 1.10 locks with."
  type        = bool
  default     = false
}
