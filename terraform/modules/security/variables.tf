variable "name" {
  description = "Prefix of every name, such as \"bridge-prod\"."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,22}[a-z0-9]$", var.name))
    error_message = "name must have 2 to 24 lower-case letters, digits and dashes, begin with a letter and not end with a dash."
  }
}

variable "vpc_id" {
  description = "The VPC of the groups."
  type        = string
}

variable "vpc_cidr_block" {
  description = "Its addresses, of which the third is the resolver's."
  type        = string

  validation {
    condition     = can(cidrhost(var.vpc_cidr_block, 2))
    error_message = "vpc_cidr_block must be an IPv4 block, such as 10.20.0.0/16."
  }
}

variable "bridge_port" {
  description = "TCP port that the bridge listens on in its task."
  type        = number
  default     = 3000

  validation {
    condition     = var.bridge_port >= 1024 && var.bridge_port <= 65535
    error_message = "bridge_port must be from 1024 to 65535: the bridge does not run as root."
  }
}

variable "cache_port" {
  description = "TCP port of the shared journal."
  type        = number
  default     = 6379
}
