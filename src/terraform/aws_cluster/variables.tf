variable "name" {
  description = "Prefix of every name and of the nodes' host names."
  type        = string
  default     = "llama-k8s-platform"
  validation {
    condition     = can(regex("^[a-z]([a-z0-9]|-[a-z0-9]){2,39}$", var.name)) && length(var.name) <= 40
    error_message = "name must be 3 to 40 lower-case letters, digits and single dashes, a letter first and no dash last: it becomes part of host names."
  }
}

variable "region" {
  description = "AWS region of the cluster."
  type        = string
  default     = "us-east-1"
  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region must be a region such as us-east-1, not an availability zone."
  }
}

variable "vpc_cidr" {
  description = "Address range of the VPC.  Must not overlap pod_cidr or service_cidr."
  type        = string
  default     = "10.10.0.0/16"
  validation {
    condition     = can(cidrnetmask(var.vpc_cidr)) && try(cidrhost(var.vpc_cidr, 0) == split("/", var.vpc_cidr)[0], false)
    error_message = "vpc_cidr must be an IPv4 range without host bits, such as 10.10.0.0/16."
  }
  validation {
    condition     = try(tonumber(split("/", var.vpc_cidr)[1]) >= 16 && tonumber(split("/", var.vpc_cidr)[1]) <= 20, false)
    error_message = "vpc_cidr must be /16 to /20: AWS allows no larger VPC, and eight subnets are cut from it."
  }
  validation {
    condition = try(anytrue([
      for range in ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"] :
      cidrhost("${split("/", var.vpc_cidr)[0]}/${split("/", range)[1]}", 0) == split("/", range)[0]
    ]), false)
    error_message = "vpc_cidr must be private (10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16): public addresses in it could not be reached."
  }
}

variable "pod_cidr" {
  description = "Address range of the pods.  Must not overlap vpc_cidr or service_cidr."
  type        = string
  default     = "192.168.0.0/16"
  validation {
    condition = try(
      cidrhost(var.pod_cidr, 0) == split("/", var.pod_cidr)[0] && can(cidrnetmask(var.pod_cidr)) &&
      tonumber(split("/", var.pod_cidr)[1]) >= 12 && tonumber(split("/", var.pod_cidr)[1]) <= 22 &&
      anytrue([
        for range in ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"] :
        cidrhost("${split("/", var.pod_cidr)[0]}/${split("/", range)[1]}", 0) == split("/", range)[0]
    ]), false)
    error_message = "pod_cidr must be a private IPv4 range of /12 to /22 without host bits, such as 192.168.0.0/16."
  }
  # Two ranges overlap if they are the same at the shorter of the two prefixes.
  validation {
    condition = try(
      cidrhost("${split("/", var.pod_cidr)[0]}/${min(split("/", var.pod_cidr)[1], split("/", var.vpc_cidr)[1])}", 0) !=
      cidrhost("${split("/", var.vpc_cidr)[0]}/${min(split("/", var.pod_cidr)[1], split("/", var.vpc_cidr)[1])}", 0),
    false)
    error_message = "pod_cidr overlaps vpc_cidr: a pod could not reach the nodes that share its addresses; choose another range for one of them."
  }
}

variable "service_cidr" {
  description = "Address range of the services.  Must not overlap vpc_cidr or pod_cidr."
  type        = string
  default     = "10.96.0.0/12"
  validation {
    condition = try(
      cidrhost(var.service_cidr, 0) == split("/", var.service_cidr)[0] && can(cidrnetmask(var.service_cidr)) &&
      tonumber(split("/", var.service_cidr)[1]) >= 12 && tonumber(split("/", var.service_cidr)[1]) <= 24,
    false)
    error_message = "service_cidr must be an IPv4 range of /12 to /24 without host bits, such as 10.96.0.0/12."
  }
  validation {
    condition = try(alltrue([
      for other in [var.vpc_cidr, var.pod_cidr] :
      cidrhost("${split("/", var.service_cidr)[0]}/${min(split("/", var.service_cidr)[1], split("/", other)[1])}", 0) !=
      cidrhost("${split("/", other)[0]}/${min(split("/", var.service_cidr)[1], split("/", other)[1])}", 0)
    ]), false)
    error_message = "service_cidr overlaps vpc_cidr or pod_cidr: services would hide nodes or pods; choose another range."
  }
}

variable "zone_count" {
  description = "Number of availability zones with a public and a private subnet each."
  type        = number
  default     = 3
  validation {
    condition     = contains([1, 2, 3, 4], var.zone_count)
    error_message = "zone_count must be 1, 2, 3 or 4."
  }
}

variable "control_plane_instance_type" {
  description = "x86-64 instance type; kubeadm needs 2 vCPUs and 2 GiB."
  type        = string
  default     = "t3.medium"
  validation {
    condition = (
      can(regex("^[a-z][a-z0-9-]*\\.(small|medium|large|[0-9]*xlarge|metal(-[0-9]+xl)?)$", var.control_plane_instance_type)) &&
      !can(regex("^(a1|[a-z]+[0-9]+g[a-z]*)\\.|^(t2|t1|m1|c1)\\.small$", var.control_plane_instance_type))
    )
    error_message = "control_plane_instance_type must be an x86-64 type with 2 vCPUs and 2 GiB or more, such as t3.medium: the image is for amd64."
  }
}

variable "worker_instance_type" {
  description = "x86-64 instance type of the nodes that run the chat, its backend and the monitoring."
  type        = string
  default     = "t3.medium"
  validation {
    condition = (
      can(regex("^[a-z][a-z0-9-]*\\.(medium|large|[0-9]*xlarge|metal(-[0-9]+xl)?)$", var.worker_instance_type)) &&
      !can(regex("^(a1|[a-z]+[0-9]+g[a-z]*)\\.", var.worker_instance_type))
    )
    error_message = "worker_instance_type must be an x86-64 type with 4 GiB or more, such as t3.medium: the image is for amd64."
  }
}

variable "worker_count" {
  description = "Number of workers without a GPU."
  type        = number
  default     = 1
  validation {
    condition     = var.worker_count >= 1 && var.worker_count <= 50 && var.worker_count == floor(var.worker_count)
    error_message = "worker_count must be a whole number from 1 to 50: the chat and its backend run on workers only."
  }
}

variable "gpu_worker_instance_type" {
  description = "Instance type of the model server's nodes.  g4dn.xlarge has one Tesla T4 (16 GiB, sm75: no bfloat16)."
  type        = string
  default     = "g4dn.xlarge"
  validation {
    # g4ad has AMD GPUs; g5g and p6e are ARM; g3, p2 and p3 are older than CUDA 13 supports.
    condition     = can(regex("^(g4dn|g5|g6|g6e|gr6|g7e|p4d|p4de|p5|p5e|p5en|p6-b200|p6-b300)\\.([0-9]*xlarge|metal)$", var.gpu_worker_instance_type))
    error_message = "gpu_worker_instance_type must be an x86-64 type with an NVIDIA GPU of Turing or newer: g4dn, g5, g6, g6e, gr6, g7e, p4d, p4de, p5, p5e, p5en, p6-b200 or p6-b300."
  }
}

variable "gpu_worker_count" {
  description = "Number of workers with a GPU; one replica of the model server each."
  type        = number
  default     = 1
  validation {
    condition     = var.gpu_worker_count >= 0 && var.gpu_worker_count <= 50 && var.gpu_worker_count == floor(var.gpu_worker_count)
    error_message = "gpu_worker_count must be a whole number from 0 to 50."
  }
}

variable "gpu_spot" {
  description = "Run the GPU workers on spot capacity: about a third of the price, and AWS may take a node with two minutes' notice."
  type        = bool
  default     = false
}

variable "ami_id" {
  description = "AMI of the nodes without a GPU; empty for the newest Ubuntu 24.04."
  type        = string
  default     = ""
  validation {
    condition     = var.ami_id == "" || can(regex("^ami-([0-9a-f]{8}|[0-9a-f]{17})$", var.ami_id))
    error_message = "ami_id must be an AMI's id, such as ami-0123456789abcdef0, or empty."
  }
}

variable "gpu_ami_id" {
  description = "AMI of the GPU workers; empty for AWS's newest base AMI with NVIDIA's driver (Ubuntu 24.04)."
  type        = string
  default     = ""
  validation {
    condition     = var.gpu_ami_id == "" || can(regex("^ami-([0-9a-f]{8}|[0-9a-f]{17})$", var.gpu_ami_id))
    error_message = "gpu_ami_id must be an AMI's id, such as ami-0123456789abcdef0, or empty."
  }
}

variable "root_volume_gb" {
  description = "Disk of a node without a GPU (GB)."
  type        = number
  default     = 30
  validation {
    condition     = var.root_volume_gb >= 20 && var.root_volume_gb <= 16384 && var.root_volume_gb == floor(var.root_volume_gb)
    error_message = "root_volume_gb must be a whole number from 20 to 16384: the system and the images take 12 GB."
  }
}

variable "gpu_root_volume_gb" {
  description = "Disk of a GPU worker (GB): the engine's image takes about 25 GB unpacked, the weights 7 GB and more."
  type        = number
  default     = 100
  validation {
    condition     = var.gpu_root_volume_gb >= 80 && var.gpu_root_volume_gb <= 16384 && var.gpu_root_volume_gb == floor(var.gpu_root_volume_gb)
    error_message = "gpu_root_volume_gb must be a whole number from 80 to 16384; below 80 the kubelet evicts the model server for disk pressure."
  }
}

variable "node_port_cidrs" {
  description = "Address ranges that may reach the NodePorts besides the VPC."
  type        = set(string)
  default     = []
  validation {
    condition     = alltrue([for range in var.node_port_cidrs : can(cidrnetmask(range)) && try(cidrhost(range, 0) == split("/", range)[0], false)])
    error_message = "node_port_cidrs must be IPv4 ranges without host bits, such as 203.0.113.0/24."
  }
  validation {
    # Several halves of the internet are the internet.
    condition     = try(sum(concat([0], [for range in var.node_port_cidrs : pow(2, 32 - tonumber(split("/", range)[1]))])) <= pow(2, 25), false)
    error_message = "node_port_cidrs must hold at most 2^25 addresses together (two /8), and not the internet: use certificate_arn for a public load balancer with TLS."
  }
}

variable "certificate_arn" {
  description = "ACM certificate of a public load balancer (TLS) before the chat; empty for none."
  type        = string
  default     = ""
  validation {
    condition     = var.certificate_arn == "" || can(regex("^arn:aws[a-z-]*:acm:[a-z0-9-]+:[0-9]{12}:certificate/[0-9a-f-]+$", var.certificate_arn))
    error_message = "certificate_arn must be the ARN of an ACM certificate, or empty."
  }
  validation {
    condition     = var.certificate_arn == "" || var.zone_count >= 2
    error_message = "certificate_arn needs zone_count of 2 or more: a load balancer stands in two zones."
  }
}

variable "client_cidrs" {
  description = "Address ranges that may reach the load balancer of certificate_arn."
  type        = set(string)
  default     = []
  validation {
    condition     = alltrue([for range in var.client_cidrs : can(cidrnetmask(range)) && try(cidrhost(range, 0) == split("/", range)[0], false)])
    error_message = "client_cidrs must be IPv4 ranges without host bits, such as 203.0.113.0/24; 0.0.0.0/0 opens the chat to everybody."
  }
  validation {
    condition     = var.certificate_arn == "" || length(var.client_cidrs) > 0
    error_message = "client_cidrs is empty, so the load balancer would answer no client; name the ranges that may use the chat."
  }
}

variable "ebs_kms_key_id" {
  description = "KMS key of the disks; null for the account's EBS key."
  type        = string
  default     = null
  validation {
    condition     = var.ebs_kms_key_id == null || can(regex("^(arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:(key|alias)/.+|alias/.+|(mrk-)?[0-9a-f-]{32,36})$", var.ebs_kms_key_id))
    error_message = "ebs_kms_key_id must be a KMS key's id, alias or ARN, or null."
  }
}
