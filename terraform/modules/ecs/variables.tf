variable "name" {
  type        = string
  description = "Name of this bridge, such as bridge-prod; what is made here begins with it."

  validation {
    condition     = can(regex("^[a-z][a-z0-9]*(-[a-z0-9]+)*$", var.name)) && length(var.name) <= 32
    error_message = "The name must be up to 32 lower-case letters, digits and single hyphens, and begin with a letter."
  }
}

variable "image" {
  type        = string
  description = "The bridge's image with a tag of its own or a digest: going back to the version before needs its name."

  validation {
    condition     = can(regex("(:[A-Za-z0-9_][A-Za-z0-9_.-]*|@sha256:[0-9a-f]{64})$", var.image)) && !endswith(var.image, ":latest")
    error_message = "The image must have a tag other than latest, or a digest."
  }
}

variable "cpu" {
  type        = number
  description = "CPU units of a task; 1024 is one core."
  default     = 1024

  validation {
    condition     = contains([512, 1024, 2048, 4096, 8192, 16384], var.cpu)
    error_message = "The CPU units must be a size that Fargate has, from 512 to 16384."
  }
}

variable "memory" {
  type        = number
  description = "MiB of a task. The bridge answers one turn for each GiB at once, two at least."
  default     = 4096

  validation {
    condition     = var.memory >= 2048
    error_message = "The memory must be 2048 MiB or more: two turns of the agent are run at once at least."
  }

  # Source: AWS docs, ECS, "Task definition parameters for Fargate", task CPU and memory.
  validation {
    condition = (
      var.memory >= 2 * var.cpu
      && var.memory <= lookup({ 512 = 4096, 1024 = 8192, 2048 = 16384, 4096 = 30720, 8192 = 61440 }, var.cpu, 122880)
      && var.memory % lookup({ 8192 = 4096, 16384 = 8192 }, var.cpu, 1024) == 0
    )
    error_message = "Fargate has no task of this memory and CPU: from 2 to 8 MiB for each CPU unit, in steps of 1024 MiB (4096 from 8192 CPU units on, 8192 from 16384)."
  }
}

variable "private_subnet_ids" {
  type        = list(string)
  description = "Subnets of the tasks, in two zones or more, with a way out to n8n, Anthropic and AWS."

  validation {
    condition     = length(var.private_subnet_ids) >= 2
    error_message = "Two subnets or more are needed, each in a zone of its own."
  }
}

variable "task_security_group_id" {
  type        = string
  description = "Security group of the tasks."
}

variable "target_group_arn" {
  type        = string
  description = "Target group that tasks register with. Its listener must be there before the service is made."
}

variable "environment" {
  type        = map(string)
  description = "Settings of the bridge by name, secrets excepted (docs/configuration.md). PUBLIC_URL is a must."

  validation {
    condition     = startswith(lookup(var.environment, "PUBLIC_URL", ""), "https://")
    error_message = "PUBLIC_URL must be the https:// address of the load balancer."
  }

  validation {
    condition = alltrue([
      for setting in keys(var.environment) : !can(regex("_(SECRET|TOKEN|KEY)$", setting)) && setting != "REDIS_URL"
    ])
    error_message = "A secret must not stand in the task definition, which many may read: give its ARN in secrets (REDIS_URL's in redis_url_secret_arn)."
  }

  validation {
    condition = length(setintersection(
      keys(var.environment), ["BIND", "TRUSTED_PROXY_HOPS", "GRACEFUL_TIMEOUT_SECONDS", "JOURNAL_PATH", "TMPDIR", "AWS_REGION"]
    )) == 0
    error_message = "BIND, TRUSTED_PROXY_HOPS, GRACEFUL_TIMEOUT_SECONDS, JOURNAL_PATH, TMPDIR and AWS_REGION are set by this module."
  }
}

variable "secrets" {
  type        = map(string)
  description = "ARN of the Secrets Manager secret by the setting that it holds. ACCESS_TOKEN and N8N_CALLBACK_SECRET are a must."

  validation {
    condition     = length(setsubtract(["ACCESS_TOKEN", "N8N_CALLBACK_SECRET"], keys(var.secrets))) == 0
    error_message = "ACCESS_TOKEN and N8N_CALLBACK_SECRET are needed: without them the bridge refuses whoever comes through the load balancer."
  }

  validation {
    condition     = alltrue([for arn in values(var.secrets) : can(regex("^arn:[a-z-]+:secretsmanager:", arn))])
    error_message = "Each secret must be the ARN of a Secrets Manager secret, not its value."
  }
}

variable "redis_url_secret_arn" {
  type        = string
  nullable    = false
  description = "ARN of the secret with REDIS_URL, the shared journal. Tasks without one would each keep a journal of their own, which ends with them."

  validation {
    condition     = can(regex("^arn:[a-z-]+:secretsmanager:", var.redis_url_secret_arn))
    error_message = "The shared journal is a must: give the ARN of the secret that holds REDIS_URL."
  }
}

variable "dead_letter_bucket_arn" {
  type        = string
  description = "Bucket that tasks may put dead letters into."
}

variable "dead_letter_table_arn" {
  type        = string
  description = "Table that tasks may put dead letters into."
}

variable "log_group_name" {
  type        = string
  description = "Log group of the tasks; it must be there before they start."
}
