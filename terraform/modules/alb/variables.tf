variable "name" {
  description = "Name of the load balancer and its target group, such as \"bridge-prod\"."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,22}[a-z0-9]$", var.name))
    error_message = "name must have 2 to 24 lower-case letters, digits and dashes, begin with a letter and not end with a dash."
  }
}

variable "vpc_id" {
  description = "The VPC of the targets."
  type        = string
}

variable "public_subnet_ids" {
  description = "Subnets of the load balancer, one per zone."
  type        = list(string)

  validation {
    condition     = length(var.public_subnet_ids) >= 2
    error_message = "public_subnet_ids must be of two zones at least."
  }
}

variable "security_group_id" {
  description = "Group of the load balancer."
  type        = string
}

variable "certificate_arn" {
  description = "Certificate of the bridge's domain, in ACM, in the load balancer's region."
  type        = string

  validation {
    condition     = can(regex("^arn:[a-z-]+:acm:[a-z0-9-]+:[0-9]{12}:certificate/.+$", var.certificate_arn))
    error_message = "certificate_arn must be the ARN of a certificate in ACM."
  }
}

variable "log_bucket_name" {
  description = "Bucket that takes the access logs, under the prefix \"alb\"."
  type        = string
}

variable "bridge_port" {
  description = "TCP port that the bridge listens on in its task."
  type        = number
  default     = 3000
}

variable "deletion_protection" {
  description = "Whether deleting the load balancer is refused until this is taken back."
  type        = bool
  default     = true
}
