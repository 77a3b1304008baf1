variable "name" {
  type        = string
  description = "Name of this bridge, such as bridge-prod; alarms, dashboard and queries begin with it."

  validation {
    condition     = can(regex("^[a-z][a-z0-9]*(-[a-z0-9]+)*$", var.name)) && length(var.name) <= 32
    error_message = "The name must be up to 32 lower-case letters, digits and single hyphens, and begin with a letter."
  }
}

variable "log_group_name" {
  type        = string
  description = "Log group to make, such as /ecs/bridge-prod. Give the ecs module this module's output of that name: then it is there first."
}

variable "cluster_name" {
  type        = string
  description = "The ECS cluster."
}

variable "service_name" {
  type        = string
  description = "The ECS service."
}

variable "alb_arn_suffix" {
  type        = string
  description = "The load balancer as its metrics name it: app/NAME/ID."
}

variable "target_group_arn_suffix" {
  type        = string
  description = "The target group as its metrics name it: targetgroup/NAME/ID."
}

variable "alarm_email" {
  type        = string
  description = "Address that alarms go to once it is confirmed there; null: none, others subscribe to the topic."
  default     = null

  validation {
    condition     = var.alarm_email == null || can(regex("^[^@[:space:]]+@[^@[:space:]]+$", var.alarm_email))
    error_message = "The address must be one of e-mail."
  }
}
