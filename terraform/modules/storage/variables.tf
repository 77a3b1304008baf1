variable "name" {
  type        = string
  description = "Prefix of every name, such as \"bridge-prod\"."

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,20}[a-z0-9]$", var.name))
    error_message = "name must have 2 to 22 lower-case letters, digits and dashes, begin with a letter and not end with a dash."
  }
}

variable "dead_letter_retention_days" {
  type        = number
  description = "Days that a dead letter is kept in the bucket; what was deleted or replaced stays as long again."
  default     = 30

  validation {
    condition     = var.dead_letter_retention_days >= 1 && floor(var.dead_letter_retention_days) == var.dead_letter_retention_days
    error_message = "dead_letter_retention_days must be a whole number of days, 1 at least."
  }
}

variable "access_log_retention_days" {
  type        = number
  description = "Days that access logs of the load balancer and of the bucket are kept."
  default     = 90
}

variable "deletion_protection" {
  type        = bool
  description = "Whether a bucket that is not empty, and the table, refuse to be deleted."
  default     = true
}
