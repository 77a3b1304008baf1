variable "name" {
  type        = string
  description = "Name of this bridge, such as bridge-prod; what is made here begins with it."

  validation {
    condition     = can(regex("^[a-z][a-z0-9]*(-[a-z0-9]+)*$", var.name)) && length(var.name) <= 32
    error_message = "The name must be up to 32 lower-case letters, digits and single hyphens, and begin with a letter."
  }
}

variable "private_subnet_ids" {
  type        = list(string)
  description = "Subnets of the nodes, in two zones or more."

  validation {
    condition     = length(var.private_subnet_ids) >= 2
    error_message = "Two subnets or more are needed, each in a zone of its own."
  }
}

variable "cache_security_group_id" {
  type        = string
  description = "Security group of the nodes; it lets in the tasks only."
}

variable "node_type" {
  type        = string
  description = "Size of each node. One shard carries the whole journal, so a larger node is what makes it faster."
  default     = "db.t4g.small"

  validation {
    condition     = can(regex("^db\\.[a-z0-9]+\\.[a-z0-9]+$", var.node_type))
    error_message = "The node type must be one of MemoryDB's, such as db.t4g.small."
  }
}

variable "replicas" {
  type        = number
  description = "Nodes beside the first, each in another zone, that one takes over from. 0: none, and minutes without a journal where the node fails."
  default     = 1

  validation {
    condition     = var.replicas >= 0 && var.replicas <= 5 && floor(var.replicas) == var.replicas
    error_message = "The replicas must be a whole number from 0 to 5."
  }
}

variable "snapshot_retention_days" {
  type        = number
  description = "Days that the daily snapshot is kept; 0: none is made, nor at the end."
  default     = 7

  validation {
    condition     = var.snapshot_retention_days >= 0 && var.snapshot_retention_days <= 35
    error_message = "The days must be from 0 to 35."
  }
}

variable "password_versions" {
  type        = list(number)
  description = "The passwords that are taken, by number; the last is in the secret. To change it: [1], [1, 2], new tasks, [2]."
  default     = [1]

  validation {
    condition     = length(var.password_versions) >= 1 && length(var.password_versions) <= 2 && length(distinct(var.password_versions)) == length(var.password_versions)
    error_message = "One or two different numbers are needed: a user has two passwords at most."
  }
}

variable "recovery_window_days" {
  type        = number
  description = "Days in which the deleted secret can be had back; 0: none, and its name is free at once."
  default     = 30

  validation {
    condition     = var.recovery_window_days == 0 || (var.recovery_window_days >= 7 && var.recovery_window_days <= 30)
    error_message = "The days must be 0, or from 7 to 30."
  }
}
