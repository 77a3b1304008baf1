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

# -- saved queries ----------------------------------------------------------------------------------

resource "aws_cloudwatch_query_definition" "this" {
  for_each = {
    errors             = "fields @timestamp, @message, sessionId | filter level = \"error\" | sort @timestamp desc | limit 100"
    slow-claude        = "fields @timestamp, duration, sessionId | filter message like /Claude execution complete/ | filter duration > 5000 | sort duration desc"
    unrouted-callbacks = "fields @timestamp, workflowId, @message | filter message like /No session found for workflow/ | sort @timestamp desc"
  }

  name            = "${var.name}/${each.key}"
  query_string    = each.value
  log_group_names = [aws_cloudwatch_log_group.this.name]
}

# -- metrics out of log lines -----------------------------------------------------------------------

# docs/logs.md has the lines.
resource "aws_cloudwatch_log_metric_filter" "this" {
  for_each = {
    # Once a minute from each task, so its sum over a minute is the number of them all.
    ActiveConnections = { pattern = "{ $.message = \"Memory usage\" }", value = "$.activeConnections", default = null }
    ActiveTurns       = { pattern = "{ $.message = \"Memory usage\" }", value = "$.activeTurns", default = null }

    UnroutedCallbacks = { pattern = "{ $.message = \"No session found for workflow\" }", value = "1", default = "0" }
    BlockedRepairs    = { pattern = "{ $.message = \"repair blocked\" }", value = "1", default = "0" }
    # Those that could not be read or came too fast: what reached no session is counted above, and nobody is called twice.
    DeadLetters = { pattern = "{ $.message = \"callback kept as a dead letter\" }", value = "1", default = "0" }
  }

  name           = "${var.name}-${each.key}"
  log_group_name = aws_cloudwatch_log_group.this.name
  pattern        = each.value.pattern

  metric_transformation {
    namespace     = local.namespace
    name          = each.key
    value         = each.value.value
    default_value = each.value.default
    unit          = "Count"
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
