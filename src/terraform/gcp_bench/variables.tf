variable "project" {
  description = "Id of the Google Cloud project that pays."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "project must be a project's id (6 to 30 lower-case letters, digits and dashes), not its name or number."
  }
}

variable "name" {
  description = "Name of the instance, and prefix of what belongs to it."
  type        = string
  default     = "servekit-bench"
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,20}[a-z0-9]$", var.name))
    error_message = "name must be 4 to 22 lower-case letters, digits and dashes, a letter first: a service account's id is made from it."
  }
}

variable "zone" {
  description = "Where the instance runs; few zones have a3-highgpu-8g."
  type        = string
  default     = "us-central1-a"
  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+-[a-z]$", var.zone))
    error_message = "zone must be a zone such as us-central1-a, not a region."
  }
}

variable "machine_type" {
  description = "a3-highgpu-8g (8 H100) for the fleet h100, g2-standard-96 (8 L4) for l4, a2-ultragpu-1g for colocated."
  type        = string
  default     = "a3-highgpu-8g"
  validation {
    condition     = can(regex("^(a2|a3|a4|g2|g4)-", var.machine_type))
    error_message = "machine_type must be of a family that brings its GPUs: a2, a3, a4, g2 or g4."
  }
}

variable "spot" {
  description = "Use spare capacity: far cheaper, and Google may stop it at any time.  Disks stay."
  type        = bool
  default     = false
}

variable "running" {
  description = "False stops the machine and keeps its disks, with the models on them."
  type        = bool
  default     = true
}

variable "max_run_hours" {
  description = "Hours after which the machine stops by itself, counted from each start; 0 for never."
  type        = number
  default     = 12
  validation {
    condition     = var.max_run_hours >= 0 && var.max_run_hours <= 2880 && var.max_run_hours == floor(var.max_run_hours)
    error_message = "max_run_hours must be a whole number from 0 to 2880 (120 days, Google's limit)."
  }
}

variable "model_cache_gb" {
  description = "Disk for the models.  The three of the fleet h100 take 125 GB."
  type        = number
  default     = 500
  validation {
    condition     = var.model_cache_gb >= 150
    error_message = "model_cache_gb must be at least 150: the fleet's three models take 125 GB."
  }
}

variable "model_cache_type" {
  description = "Type of that disk; a3-ultragpu and a4 take hyperdisk-balanced only."
  type        = string
  default     = "pd-ssd"
  validation {
    condition     = contains(["pd-balanced", "pd-ssd", "hyperdisk-balanced"], var.model_cache_type)
    error_message = "model_cache_type must be pd-balanced, pd-ssd or hyperdisk-balanced."
  }
}

variable "boot_disk_gb" {
  description = "System, driver and images; an engine's image takes 25 GB unpacked."
  type        = number
  default     = 200
  validation {
    condition     = var.boot_disk_gb >= 100
    error_message = "boot_disk_gb must be at least 100: two engine images and the driver do not fit otherwise."
  }
}

variable "client_cidrs" {
  description = "Who may reach the load balancers and engines from outside.  With none there is no public address, and the way in is a tunnel."
  type        = set(string)
  default     = []
  validation {
    condition     = alltrue([for range in var.client_cidrs : can(cidrnetmask(range)) && try(cidrhost(range, 0) == split("/", range)[0], false)])
    error_message = "client_cidrs must be IPv4 ranges without host bits, such as 203.0.113.7/32."
  }
  validation {
    # Several halves of the internet are the internet.
    condition     = var.allow_any_client || try(sum(concat([0], [for range in var.client_cidrs : pow(2, 32 - tonumber(split("/", range)[1]))])) <= pow(2, 25), false)
    error_message = "client_cidrs holds more than 2^25 addresses (two /8), most of the internet, and the engines require no authentication; name your own address (203.0.113.7/32), or set allow_any_client."
  }
}

variable "allow_any_client" {
  description = "Lets client_cidrs hold 0.0.0.0/0."
  type        = bool
  default     = false
}

variable "operators" {
  description = "Who may log in, such as user:ann@example.com, besides those whom the project lets in."
  type        = set(string)
  default     = []
  validation {
    condition     = alltrue([for member in var.operators : can(regex("^(user|group|serviceAccount):.+@.+$", member))])
    error_message = "operators must look like user:ann@example.com, group:... or serviceAccount:..."
  }
}

variable "image_repository" {
  description = "Artifact Registry repository that the machine may pull images from: projects/P/locations/L/repositories/R.  Empty for none."
  type        = string
  default     = ""
  validation {
    condition     = var.image_repository == "" || can(regex("^projects/[^/]+/locations/[^/]+/repositories/[^/]+$", var.image_repository))
    error_message = "image_repository must be like projects/P/locations/L/repositories/R."
  }
}

variable "disk_kms_key" {
  description = "Cloud KMS key of the disks; null for Google's own."
  type        = string
  default     = null
}
