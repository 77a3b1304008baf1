variable "name" {
  type        = string
  description = "Name of the load balancer and its target group, such as \"bridge-prod\"."

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,20}[a-z0-9]$", var.name))
    error_message = "name must have 2 to 22 lower-case letters, digits and dashes, begin with a letter and not end with a dash."
  }
}

variable "vpc_id" {
  type        = string
  description = "The VPC of the targets."
}

variable "public_subnet_ids" {
  type        = list(string)
  description = "Subnets of the load balancer, one per zone."

  validation {
    condition     = length(var.public_subnet_ids) >= 2
    error_message = "public_subnet_ids must be of two zones at least."
  }
}

variable "security_group_id" {
  type        = string
  description = "Group of the load balancer."
}

variable "certificate_arn" {
  type        = string
  description = "Certificate of the bridge's domain, in ACM, in the load balancer's region."

  validation {
    condition     = can(regex("^arn:[a-z-]+:acm:[a-z0-9-]+:[0-9]{12}:certificate/.+$", var.certificate_arn))
    error_message = "certificate_arn must be the ARN of a certificate in ACM."
  }
}

variable "log_bucket_name" {
  type        = string
  description = "Bucket that takes the access logs, under the prefix \"alb\"."
}

variable "bridge_port" {
  type        = number
  description = "TCP port that the bridge listens on in its task."
  default     = 3000
}

variable "deletion_protection" {
  type        = bool
  description = "Whether deleting the load balancer is refused until this is taken back."
  default     = true
}
