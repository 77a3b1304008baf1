data "aws_caller_identity" "current" {}
data "aws_region" "current" {}
data "aws_partition" "current" {}

locals {
  account_id    = data.aws_caller_identity.current.account_id
  logs_arn      = "arn:${data.aws_partition.current.partition}:logs:${data.aws_region.current.region}:${local.account_id}"
  log_group_arn = "${local.logs_arn}:log-group:${aws_cloudwatch_log_group.this.name}"
}

resource "aws_cloudwatch_log_group" "this" {
  #checkov:skip=CKV_AWS_158:the key of CloudWatch Logs encrypts it; credentials and bodies are left out
  #checkov:skip=CKV_AWS_338:what was blocked is looked at within days
  name              = "aws-waf-logs-${var.name}" # the prefix is asked for
  retention_in_days = var.log_retention_days
}

resource "aws_cloudwatch_log_resource_policy" "this" {
  policy_name = "${var.name}-waf-logs"

  policy_document = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "delivery.logs.amazonaws.com" }
      Action    = ["logs:CreateLogStream", "logs:PutLogEvents"]
      Resource  = "${local.log_group_arn}:*"
      Condition = {
        ArnLike      = { "aws:SourceArn" = "${local.logs_arn}:*" }
        StringEquals = { "aws:SourceAccount" = local.account_id }
      }
    }]
  })
}

resource "aws_wafv2_web_acl_logging_configuration" "this" {
  resource_arn            = aws_wafv2_web_acl.this.arn
  log_destination_configs = [local.log_group_arn]

  redacted_fields {
    single_header {
      name = "authorization"
    }
  }

  redacted_fields {
    single_header {
      name = "cookie"
    }
  }

  # What passes without a finding is in the load balancer's access log.
  logging_filter {
    default_behavior = "DROP"

    filter {
      behavior    = "KEEP"
      requirement = "MEETS_ANY"

      condition {
        action_condition {
          action = "BLOCK"
        }
      }

      condition {
        action_condition {
          action = "COUNT"
        }
      }
    }
  }

  depends_on = [aws_cloudwatch_log_resource_policy.this]
}
