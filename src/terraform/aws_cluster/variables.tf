variable "name" {
  description = "Prefix of every name, and of the nodes' host names."
  type        = string
  default     = "llama-k8s-platform"
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,40}$", var.name))
    error_message = "name must be 3 to 41 lower-case letters, digits and dashes, a letter first: it becomes part of host names."
  }
}

variable "region" {
  description = "Where the cluster runs."
  type        = string
  default     = "us-east-1"
}

variable "vpc_cidr" {
  description = "Addresses of the VPC.  Must not overlap the pods (192.168.0.0/16) or services (10.96.0.0/12)."
  type        = string
  default     = "10.10.0.0/16"
  validation {
    condition     = can(cidrnetmask(var.vpc_cidr)) && tonumber(split("/", var.vpc_cidr)[1]) <= 20
    error_message = "vpc_cidr must be an IPv4 range of /20 or larger: six subnets are cut from it."
  }
}

variable "zone_count" {
  description = "Availability zones with a public and a private subnet each."
  type        = number
  default     = 3
  validation {
    condition     = var.zone_count >= 1 && var.zone_count <= 4
    error_message = "zone_count must be 1 to 4."
  }
}

variable "control_plane_instance_type" {
  description = "kubeadm asks for 2 CPUs and 2 GiB at least."
  type        = string
  default     = "t3.medium"
}

variable "worker_instance_type" {
  description = "Runs the chat, its backend and the monitoring."
  type        = string
  default     = "t3.medium"
}

variable "worker_count" {
  description = "Workers without a GPU."
  type        = number
  default     = 1
  validation {
    condition     = var.worker_count >= 0 && var.worker_count == floor(var.worker_count)
    error_message = "worker_count must be a whole number, 0 or more."
  }
}

variable "gpu_worker_instance_type" {
  description = "Runs the model server.  g4dn.xlarge has one Tesla T4 (16 GiB, sm75: no bfloat16)."
  type        = string
  default     = "g4dn.xlarge"
  validation {
    condition     = can(regex("^(g|p)[0-9]", var.gpu_worker_instance_type))
    error_message = "gpu_worker_instance_type must be of a GPU family (g4dn, g5, g6, p4d, p5, ...)."
  }
}

variable "gpu_worker_count" {
  description = "Workers with a GPU; one replica of the model server each."
  type        = number
  default     = 1
  validation {
    condition     = var.gpu_worker_count >= 0 && var.gpu_worker_count == floor(var.gpu_worker_count)
    error_message = "gpu_worker_count must be a whole number, 0 or more."
  }
}

variable "ami_id" {
  description = "Image of the nodes without a GPU; empty for the newest Ubuntu 24.04."
  type        = string
  default     = ""
}

variable "gpu_ami_id" {
  description = "Image of the GPU workers; empty for AWS's newest base image with NVIDIA's driver (Ubuntu 24.04)."
  type        = string
  default     = ""
}

variable "root_volume_gb" {
  description = "Disk of a node without a GPU."
  type        = number
  default     = 30
}

variable "gpu_root_volume_gb" {
  description = "Disk of a GPU worker: the engine's image takes about 25 GB unpacked, the weights 7 GB and more."
  type        = number
  default     = 100
  validation {
    condition     = var.gpu_root_volume_gb >= 80
    error_message = "gpu_root_volume_gb must be at least 80, or the kubelet evicts the model server for disk pressure."
  }
}

variable "node_port_cidrs" {
  description = "Who may reach the NodePorts besides the VPC."
  type        = set(string)
  default     = []
  validation {
    condition     = alltrue([for range in var.node_port_cidrs : can(cidrnetmask(range)) && range != "0.0.0.0/0"])
    error_message = "node_port_cidrs must be IPv4 ranges, and not the whole internet: put a load balancer in front instead."
  }
}

variable "ebs_kms_key_id" {
  description = "Key of the disks; null for the account's own key of EBS."
  type        = string
  default     = null
}
