variable "name" {
  type        = string
  description = "Name of this bridge, such as bridge-prod; its secrets are named NAME/SETTING."

  validation {
    condition     = can(regex("^[a-z][a-z0-9]*(-[a-z0-9]+)*$", var.name)) && length(var.name) <= 32
    error_message = "The name must be up to 32 lower-case letters, digits and single hyphens, and begin with a letter."
  }
}

variable "settings" {
  type        = set(string)
  description = "Settings whose values are secrets. Leave out what is not used; REDIS_URL is the cache module's."
  default = [
    "ACCESS_TOKEN", "ANTHROPIC_API_KEY", "METRICS_TOKEN", "N8N_API_KEY", "N8N_CALLBACK_SECRET", "NOTIFY_SECRET",
  ]

  validation {
    condition     = alltrue([for setting in var.settings : can(regex("^[A-Z][A-Z0-9_]*$", setting)) && setting != "REDIS_URL"])
    error_message = "Each must be the name of a setting, and none REDIS_URL."
  }
}

variable "values" {
  type        = map(string)
  sensitive   = true
  ephemeral   = true
  description = "The value of each of settings. It goes to AWS and into no plan or state, so each run needs it anew: by TF_VAR_..., out of a safe place."

  validation {
    condition     = alltrue([for setting in var.settings : lookup(var.values, setting, null) != null])
    error_message = "A value is missing: each name in settings needs one."
  }

  validation {
    condition     = alltrue([for value in values(var.values) : can(regex("^[!-~]{16,}$", value))])
    error_message = "A value is too short, or is not what a secret looks like: 16 visible characters of ASCII or more (openssl rand -hex 32)."
  }

  validation {
    condition = alltrue([for value in values(var.values) : length(distinct(split("", value))) >= 8 && !can(regex(
      "(?i)change.?(me|this|it)|place.?holder|replace|dummy|example|sample|(^|[-_.])(todo|fixme)([-_.]|$)|fill.?in|insert|your[-_.]|[-_.]here|x{6}|\\.\\.\\.|[<>]|\\$\\{|\\{\\{",
      value,
    ))])
    error_message = "A value is a placeholder. Give the real one."
  }

  validation {
    condition     = startswith(lookup(var.values, "ANTHROPIC_API_KEY", "sk-ant-"), "sk-ant-")
    error_message = "ANTHROPIC_API_KEY must be a key of Anthropic's, sk-ant-..."
  }
}

variable "versions" {
  type        = map(number)
  description = "Raise a setting's number (1 where it is not named) to have its new value written."
  default     = {}

  validation {
    condition     = length(setsubtract(keys(var.versions), var.settings)) == 0
    error_message = "Versions are of names in settings only."
  }
}

variable "recovery_window_days" {
  type        = number
  description = "Days in which a deleted secret can be had back; 0: none, and its name is free at once."
  default     = 30

  validation {
    condition     = var.recovery_window_days == 0 || (var.recovery_window_days >= 7 && var.recovery_window_days <= 30)
    error_message = "The days must be 0, or from 7 to 30."
  }
}
