variable "name" {
  type        = string
  description = "Prefix of every name, such as \"bridge-prod\"."

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,20}[a-z0-9]$", var.name))
    error_message = "name must have 2 to 22 lower-case letters, digits and dashes, begin with a letter and not end with a dash."
  }
}

variable "cidr_block" {
  type        = string
  description = "Addresses of the VPC, from /16 to /19. Another network that is to be peered must not overlap it."
  default     = "10.20.0.0/16"

  validation {
    condition     = can(cidrhost(var.cidr_block, 0)) && can(regex("/1[6-9]$", var.cidr_block))
    error_message = "cidr_block must be an IPv4 block from /16 to /19, such as 10.20.0.0/16: a load balancer takes no subnet smaller than /27."
  }
}

variable "availability_zones" {
  type        = list(string)
  description = "Zones, each with a public and a private subnet; two at least, or a zone's failure is an outage."

  validation {
    condition     = length(var.availability_zones) >= 2 && length(var.availability_zones) <= 6
    error_message = "availability_zones must name from 2 to 6 zones."
  }

  validation {
    condition     = length(distinct(var.availability_zones)) == length(var.availability_zones)
    error_message = "availability_zones must not name a zone twice."
  }
}

variable "single_nat_gateway" {
  type        = bool
  description = "One NAT gateway for all zones: cheaper, and its zone's failure takes the way out from all of them."
  default     = false
}

variable "log_retention_days" {
  type        = number
  description = "Days that flow logs are kept."
  default     = 30
}
