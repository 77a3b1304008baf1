# The shared journal: MemoryDB for Valkey, whose log of its own keeps every acknowledged write, and the secret with the
# address that opens it. docs/journal.md says what the bridge asks of it.

locals {
  port     = 6379
  user     = "bridge"
  endpoint = join("", aws_memorydb_cluster.this.cluster_endpoint[*].address) # a list of one

  # Every key has the hash tag {bridge} (REDIS_PREFIX), so one shard holds them all; the tag alone is what functions are
  # called with.
  access_string = "on ~{bridge} ~{bridge}:* resetchannels &{bridge}:wake +@all"

  passwords        = [for number in var.password_versions : random_password.this[tostring(number)].result]
  current_password = local.passwords[length(local.passwords) - 1]
}

# Letters and digits only: it stands in an address, and MemoryDB refuses some signs.
resource "random_password" "this" {
  for_each = toset([for number in var.password_versions : tostring(number)])

  length  = 64
  special = false
}

resource "aws_memorydb_user" "this" {
  user_name     = "${var.name}-${local.user}"
  access_string = local.access_string

  authentication_mode {
    type      = "password"
    passwords = local.passwords
  }
}

# The only user: the open default one is not let in.
resource "aws_memorydb_acl" "this" {
  name       = var.name
  user_names = [aws_memorydb_user.this.user_name]
}

resource "aws_memorydb_subnet_group" "this" {
  name       = var.name
  subnet_ids = var.private_subnet_ids
}

# A full node refuses (503, nothing half done) rather than throw away what somebody counts on.
resource "aws_memorydb_parameter_group" "this" {
  name   = var.name
  family = "memorydb_valkey7"

  parameter {
    name  = "maxmemory-policy"
    value = "noeviction"
  }
}

resource "aws_memorydb_cluster" "this" {
  #checkov:skip=CKV_AWS_201:MemoryDB encrypts with its own key; who may read the journal is said by its user and its security group
  name                       = var.name
  description                = "Journal of ${var.name}"
  engine                     = "valkey"
  engine_version             = "7.3"
  node_type                  = var.node_type
  num_shards                 = 1
  num_replicas_per_shard     = var.replicas
  port                       = local.port
  tls_enabled                = true
  acl_name                   = aws_memorydb_acl.this.name
  parameter_group_name       = aws_memorydb_parameter_group.this.name
  subnet_group_name          = aws_memorydb_subnet_group.this.name
  security_group_ids         = [var.cache_security_group_id]
  auto_minor_version_upgrade = true
  maintenance_window         = "sun:03:00-sun:04:00"
  snapshot_window            = "01:00-02:00"
  snapshot_retention_limit   = var.snapshot_retention_days
  final_snapshot_name        = var.snapshot_retention_days > 0 ? "${var.name}-final" : null
}

resource "aws_secretsmanager_secret" "redis_url" {
  #checkov:skip=CKV_AWS_149:The key of Secrets Manager encrypts it; who may read it is said by IAM alone, for one account
  #checkov:skip=CKV2_AWS_57:password_versions changes it without downtime; AWS has no rotation that knows a URL
  name                    = "${var.name}/REDIS_URL"
  description             = "REDIS_URL of ${var.name}"
  recovery_window_in_days = var.recovery_window_days
}

resource "aws_secretsmanager_secret_version" "redis_url" {
  secret_id = aws_secretsmanager_secret.redis_url.id
  secret_string = format(
    "rediss://%s:%s@%s:%d/0",
    aws_memorydb_user.this.user_name, local.current_password, local.endpoint, local.port,
  )
}
