# Where the bridge's lines go, what is read out of them, and whom alarms are sent to. The alarms are in alarms.tf, the
# dashboard in dashboard.tf.

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

locals {
  account_id = data.aws_caller_identity.current.account_id
  partition  = data.aws_partition.current.partition
  region     = data.aws_region.current.region

  # Of the metrics that are read out of log lines.
  namespace = "Bridge/${var.name}"
}

resource "aws_cloudwatch_log_group" "this" {
  #checkov:skip=CKV_AWS_158:CloudWatch encrypts it; the lines carry no secrets and no bodies (docs/logs.md)
  #checkov:skip=CKV_AWS_338:Kept 30 days, as agreed; what matters for longer is in the journal
  name              = var.log_group_name
  retention_in_days = 30
}

# -- what is read out of the lines -------------------------------------------------------------------

# In files of their own, for tests/terraform tries them on lines of a real bridge. docs/logs.md has the lines.
resource "aws_cloudwatch_query_definition" "this" {
  for_each = jsondecode(file("${path.module}/queries.json"))

  name            = "${var.name}/${each.key}"
  query_string    = each.value
  log_group_names = [aws_cloudwatch_log_group.this.name]
}

# A task says "Memory usage" once a minute, so the sum over a minute is that of all tasks. A callback that reached no
# session is no DeadLetters: both would call a person for one thing.
resource "aws_cloudwatch_log_metric_filter" "this" {
  for_each = jsondecode(file("${path.module}/line_metrics.json"))

  name           = "${var.name}-${each.key}"
  log_group_name = aws_cloudwatch_log_group.this.name
  pattern        = each.value.pattern

  metric_transformation {
    namespace = local.namespace
    name      = each.key
    value     = each.value.value
    unit      = "Count"

    # Of what is counted each other line is a zero: with no data after it, one bad period would be looked at for longer.
    default_value = each.value.value == "1" ? "0" : null
  }
}

# -- whom alarms are sent to ------------------------------------------------------------------------

# A key of our own: with the one that AWS manages for SNS, CloudWatch may not publish, and no alarm would arrive.
resource "aws_kms_key" "alarms" {
  description             = "Alarms of ${var.name}"
  enable_key_rotation     = true
  deletion_window_in_days = 30

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "Account"
        Effect    = "Allow"
        Principal = { AWS = "arn:${local.partition}:iam::${local.account_id}:root" }
        Action    = "kms:*"
        Resource  = "*"
      },
      {
        Sid       = "AlarmsOfThisAccount"
        Effect    = "Allow"
        Principal = { Service = "cloudwatch.amazonaws.com" }
        Action    = ["kms:Decrypt", "kms:GenerateDataKey*"]
        Resource  = "*"
        Condition = { StringEquals = { "aws:SourceAccount" = local.account_id } }
      },
    ]
  })
}

resource "aws_kms_alias" "alarms" {
  name          = "alias/${var.name}-alarms"
  target_key_id = aws_kms_key.alarms.key_id
}

resource "aws_sns_topic" "alarms" {
  name              = "${var.name}-alarms"
  kms_master_key_id = aws_kms_key.alarms.arn
}

resource "aws_sns_topic_policy" "alarms" {
  arn = aws_sns_topic.alarms.arn
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "AlarmsOfThisBridge"
      Effect    = "Allow"
      Principal = { Service = "cloudwatch.amazonaws.com" }
      Action    = "sns:Publish"
      Resource  = aws_sns_topic.alarms.arn
      Condition = {
        StringEquals = { "aws:SourceAccount" = local.account_id }
        ArnLike      = { "aws:SourceArn" = "arn:${local.partition}:cloudwatch:${local.region}:${local.account_id}:alarm:${var.name}-*" }
      }
    }]
  })
}

resource "aws_sns_topic_subscription" "email" {
  count = var.alarm_email == null ? 0 : 1

  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = var.alarm_email
}
