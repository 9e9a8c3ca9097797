variable "project" {
  description = "Project that the service runs in"
  type        = string
}

variable "region" {
  description = "Region with GPUs of that type"
  type        = string
  default     = "us-central1"
}

variable "name" {
  description = "Name of the service"
  type        = string
  default     = "vllm-gemma-3-1b-it"
}

variable "image" {
  description = "Image of src/docker/cloudrun, with its tag or digest"
  type        = string
}

variable "gpu" {
  description = "GPU type: a name in gpus.json"
  type        = string
  default     = "nvidia-l4"

  validation {
    condition     = contains(keys(jsondecode(file("${path.module}/gpus.json"))), var.gpu)
    error_message = "Cloud Run has no GPU of this name; use one of gpus.json."
  }
}

variable "cpu" {
  description = "CPUs per instance; by the GPU if null"
  type        = number
  default     = null
}

variable "memory_gib" {
  description = "Memory per instance (GiB); by the GPU if null"
  type        = number
  default     = null
}

variable "concurrency" {
  description = "Max concurrent requests per instance"
  type        = number
  default     = 1

  validation {
    condition     = var.concurrency >= 1 && var.concurrency <= 1000
    error_message = "Cloud Run takes 1 to 1000."
  }
}

variable "min_instances" {
  description = "Instances that are kept without load"
  type        = number
  default     = 1
}

variable "max_instances" {
  description = "Max. instances"
  type        = number
  default     = 10

  validation {
    condition     = var.max_instances >= 1 && var.max_instances >= var.min_instances
    error_message = "max_instances is 1 or more, and not below min_instances."
  }
}

variable "variables" {
  description = "Environment variables; no secrets: state and console show them"
  type        = map(string)
  default     = {}

  validation {
    condition     = length(setintersection(keys(var.variables), ["HF_TOKEN", "VLLM_API_KEY", "PORT"])) == 0
    error_message = "HF_TOKEN and VLLM_API_KEY belong into secrets; Cloud Run sets PORT."
  }
}

variable "secrets" {
  description = "SECRET:VERSION of Secret Manager by environment variable; the secrets exist already"
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for secret in values(var.secrets) : can(regex("^[A-Za-z0-9_-]{1,255}:(latest|[1-9][0-9]*)$", secret))])
    error_message = "Write SECRET:latest or SECRET:7, and never a value."
  }
}

variable "compile_cache_bucket" {
  description = "Bucket with compile caches, mounted read-only at /compile-cache; none if empty"
  type        = string
  default     = ""
}

variable "invokers" {
  description = "Who may call the service, such as serviceAccount:a@p.iam.gserviceaccount.com"
  type        = set(string)
  default     = []
}
