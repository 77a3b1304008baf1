variable "name" {
  description = "Prefix of every name, such as \"bridge-prod\"."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,22}[a-z0-9]$", var.name))
    error_message = "name must have 2 to 24 lower-case letters, digits and dashes, begin with a letter and not end with a dash."
  }
}

variable "alb_arn" {
  description = "The load balancer in front of which it stands."
  type        = string
}

variable "rate_limit_per_minute" {
  description = "Requests that one address may make in a minute. The bridge's own limits are lower, and what it refuses of n8n's callbacks it keeps; what is refused here is lost. So this is for floods."
  type        = number
  default     = 1000

  validation {
    condition     = var.rate_limit_per_minute >= 200
    error_message = "rate_limit_per_minute must be 200 at least: the bridge takes 100 callbacks a minute, all from n8n's address."
  }
}

variable "log_retention_days" {
  description = "Days that the log of what was counted and blocked is kept."
  type        = number
  default     = 30
}
