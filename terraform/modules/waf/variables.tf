variable "name" {
  type        = string
  description = "Prefix of every name, such as \"bridge-prod\"."

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,20}[a-z0-9]$", var.name))
    error_message = "name must have 2 to 22 lower-case letters, digits and dashes, begin with a letter and not end with a dash."
  }
}

variable "alb_arn" {
  type        = string
  description = "The load balancer in front of which it stands."
}

variable "rate_limit_per_minute" {
  type        = number
  description = "Requests that one address may make in a minute. The bridge's own limits are lower, and what it refuses of n8n's callbacks it keeps; what is refused here is lost. So this is for floods."
  default     = 1000

  validation {
    condition     = var.rate_limit_per_minute >= 200
    error_message = "rate_limit_per_minute must be 200 at least: the bridge takes 100 callbacks a minute, all from n8n's address."
  }
}

variable "log_retention_days" {
  type        = number
  description = "Days that the log of what was counted and blocked is kept."
  default     = 30
}
