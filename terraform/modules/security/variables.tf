variable "name" {
  type        = string
  description = "Prefix of every name, such as \"bridge-prod\"."

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,20}[a-z0-9]$", var.name))
    error_message = "name must have 2 to 22 lower-case letters, digits and dashes, begin with a letter and not end with a dash."
  }
}

variable "vpc_id" {
  type        = string
  description = "The VPC of the groups."
}

variable "vpc_cidr_block" {
  type        = string
  description = "Its addresses, of which the third is the resolver's."

  validation {
    condition     = can(cidrhost(var.vpc_cidr_block, 2))
    error_message = "vpc_cidr_block must be an IPv4 block, such as 10.20.0.0/16."
  }
}

variable "bridge_port" {
  type        = number
  description = "TCP port that the bridge listens on in its task."
  default     = 3000

  validation {
    condition     = var.bridge_port >= 1024 && var.bridge_port <= 65535
    error_message = "bridge_port must be from 1024 to 65535: the bridge does not run as root."
  }
}

variable "cache_port" {
  type        = number
  description = "TCP port of the shared journal."
  default     = 6379
}
