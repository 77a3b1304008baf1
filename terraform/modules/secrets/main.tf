# One secret for each setting that opens something. ECS reads them when a task starts.

resource "aws_secretsmanager_secret" "this" {
  #checkov:skip=CKV_AWS_149:The key of Secrets Manager encrypts them; who may read one is said by IAM alone, for one account
  #checkov:skip=CKV2_AWS_57:They are issued by Anthropic, n8n and people; docs/security.md has how each is changed without downtime
  for_each = var.settings

  name                    = "${var.name}/${each.key}"
  description             = "${each.key} of ${var.name}"
  recovery_window_in_days = var.recovery_window_days
}

resource "aws_secretsmanager_secret_version" "this" {
  for_each = var.settings

  secret_id                = aws_secretsmanager_secret.this[each.key].id
  secret_string_wo         = var.values[each.key]
  secret_string_wo_version = lookup(var.versions, each.key, 1)
}
