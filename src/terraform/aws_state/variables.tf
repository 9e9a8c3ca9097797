variable "name" {
  description = "Prefix of every name."
  type        = string
  default     = "llama-k8s-platform"
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,40}$", var.name))
    error_message = "name must be 3 to 41 lower-case letters, digits and dashes, a letter first: it becomes part of a bucket name."
  }
}

variable "region" {
  description = "Where the state lives."
  type        = string
  default     = "us-east-1"
}

variable "bucket_name" {
  description = "Name of the bucket; empty for one made of the name and the account."
  type        = string
  default     = ""
}

variable "old_versions_days" {
  description = "Days for which a replaced state can be brought back."
  type        = number
  default     = 90
  validation {
    condition     = var.old_versions_days >= 7
    error_message = "old_versions_days must be at least 7: a broken state is often noticed late."
  }
}

variable "lock_with_dynamodb" {
  description = "Also make the DynamoDB table that Terraform before 1.10 locks with."
  type        = bool
  default     = false
}
