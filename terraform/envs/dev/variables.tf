variable "account_id" {
  type        = string
  description = "The AWS account this belongs into; another is refused."

  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id))
    error_message = "account_id must have 12 digits."
  }
}

variable "region" {
  type        = string
  description = "AWS region."
}

variable "availability_zones" {
  type        = list(string)
  description = "Zones of the region: two are enough here."
}

variable "domain_name" {
  type        = string
  description = "Name that people and n8n reach the bridge by."

  validation {
    condition     = can(regex("^([a-z0-9]([a-z0-9-]*[a-z0-9])?\\.)+[a-z]{2,}$", var.domain_name))
    error_message = "domain_name must be a name such as bridge.example.com, without https://."
  }
}

variable "certificate_arn" {
  type        = string
  description = "Certificate of that name, in ACM, in this region."
}

variable "image" {
  type        = string
  description = "The bridge's image, with a tag of its own or a digest."
}

variable "n8n_api_url" {
  type        = string
  description = "n8n's address before /api/v1, reached by HTTPS from the private subnets."

  validation {
    condition     = startswith(var.n8n_api_url, "https://")
    error_message = "n8n_api_url must begin with https://: the tasks go out by 443 only, and the API key with them."
  }
}

variable "alarm_email" {
  type        = string
  description = "Address that alarms go to, once it is confirmed there; null: nobody."
  default     = null
}

variable "settings" {
  type        = map(string)
  description = "More settings of the bridge by name, secrets excepted, such as HEAL_AUTONOMY."
  default     = {}
}

variable "secrets" {
  type        = map(string)
  description = "Values of the settings that are secrets, by name, from TF_VAR_secrets: they are kept in no plan and no state."
  sensitive   = true
  ephemeral   = true
}

variable "secret_versions" {
  type        = map(number)
  description = "Raise a secret's number (1 where it is not named) to have its new value written."
  default     = {}
}
