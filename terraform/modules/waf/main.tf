locals {
  # Two requests carry texts in which SQL, HTML, paths and addresses mean no harm: what failed in somebody's workflow,
  # and what a person asks for. Both are authenticated, and to the bridge they are text. Only as these paths are
  # written: one that has to be decoded first is neither n8n's nor the console's.
  free_text_pattern = "^(/callbacks/n8n/error|/sessions/[^/]{1,64}/messages)$"

  # Rules of AWS that look into bodies, and the labels they leave. They count, and "attacks-in-bodies" blocks by
  # their labels.
  body_rules = {
    common = {
      EC2MetaDataSSRF_BODY    = "awswaf:managed:aws:core-rule-set:EC2MetaDataSSRF_Body"
      GenericLFI_BODY         = "awswaf:managed:aws:core-rule-set:GenericLFI_Body"
      GenericRFI_BODY         = "awswaf:managed:aws:core-rule-set:GenericRFI_Body"
      CrossSiteScripting_BODY = "awswaf:managed:aws:core-rule-set:CrossSiteScripting_Body"
    }
    sqli = {
      SQLi_BODY                 = "awswaf:managed:aws:sql-database:SQLi_Body"
      SQLiExtendedPatterns_BODY = "awswaf:managed:aws:sql-database:SQLiExtendedPatterns_Body"
    }
  }

  # These only ever count. The first would block bodies over 8 KiB: the bridge takes 1 MiB, and keeps the ends of what n8n
  # sends beyond that. The second would block clients that name no program, as WebSocket libraries do.
  counted_only = ["SizeRestrictions_BODY", "NoUserAgent_HEADER"]

  # The bridge reads bodies up to 16 MiB, whatever they are. Declared lengths from 17,000,000 bytes on:
  too_long_pattern = "^0*(1[7-9][0-9]{6}|[2-9][0-9]{7}|[1-9][0-9]{8,})$"

  # As the bridge would say it.
  problems = {
    not_found    = { type = "about:blank", title = "Not found", status = 404, detail = "There is nothing here.", code = "not_found" }
    rate_limited = { type = "about:blank", title = "Too many requests", status = 429, detail = "Too many requests from this address.", code = "rate_limited" }
    refused      = { type = "about:blank", title = "Forbidden", status = 403, detail = "The body looks like an attack.", code = "forbidden" }
    too_large    = { type = "about:blank", title = "Too large", status = 413, detail = "The body is too large.", code = "too_large" }
  }
}

resource "aws_wafv2_web_acl" "this" {
  #checkov:skip=CKV2_AWS_76:Log4j is blocked by the known bad inputs; the list of anonymous addresses would block n8n on a hosting provider
  name        = var.name
  description = "In front of the bridge: floods, known attacks and known attackers."
  scope       = "REGIONAL"

  default_action {
    allow {}
  }

  dynamic "custom_response_body" {
    for_each = local.problems

    content {
      key          = custom_response_body.key
      content_type = "APPLICATION_JSON"
      content      = jsonencode(custom_response_body.value)
    }
  }

  # Neither the log nor the samples in the console show what opens the bridge, nor what people and workflows say.
  data_protection_config {
    data_protection {
      action = "SUBSTITUTION"

      field {
        field_type = "SINGLE_HEADER"
        field_keys = ["authorization", "cookie"]
      }
    }

    data_protection {
      action = "SUBSTITUTION"

      field {
        field_type = "BODY"
      }
    }
  }

  # -- who asks

  rule {
    name     = "ip-reputation"
    priority = 0

    override_action {
      none {}
    }

    statement {
      managed_rule_group_statement {
        vendor_name = "AWS"
        name        = "AWSManagedRulesAmazonIpReputationList"
      }
    }

    visibility_config {
      cloudwatch_metrics_enabled = true
      metric_name                = "${var.name}-ip-reputation"
      sampled_requests_enabled   = true
    }
  }

  rule {
    name     = "rate"
    priority = 1

    action {
      block {
        custom_response {
          response_code            = 429
          custom_response_body_key = "rate_limited"

          response_header {
            name  = "Retry-After"
            value = "60"
          }
        }
      }
    }

    statement {
      rate_based_statement {
        limit                 = var.rate_limit_per_minute
        evaluation_window_sec = 60
        aggregate_key_type    = "IP"
      }
    }

    visibility_config {
      cloudwatch_metrics_enabled = true
      metric_name                = "${var.name}-rate"
      sampled_requests_enabled   = true
    }
  }

  # -- what is asked for

  # The load balancer refuses /metrics as it is written; here the path is decoded first.
  rule {
    name     = "metrics"
    priority = 2

    action {
      block {
        custom_response {
          response_code            = 404
          custom_response_body_key = "not_found"
        }
      }
    }

    statement {
      regex_match_statement {
        regex_string = "^/+metrics(/|$)"

        field_to_match {
          uri_path {}
        }

        text_transformation {
          priority = 0
          type     = "URL_DECODE"
        }

        text_transformation {
          priority = 1
          type     = "NORMALIZE_PATH"
        }

        text_transformation {
          priority = 2
          type     = "LOWERCASE"
        }
      }
    }

    visibility_config {
      cloudwatch_metrics_enabled = true
      metric_name                = "${var.name}-metrics"
      sampled_requests_enabled   = true
    }
  }

  rule {
    name     = "too-large"
    priority = 3

    action {
      block {
        custom_response {
          response_code            = 413
          custom_response_body_key = "too_large"
        }
      }
    }

    statement {
      regex_match_statement {
        regex_string = local.too_long_pattern

        field_to_match {
          single_header {
            name = "content-length"
          }
        }

        text_transformation {
          priority = 0
          type     = "NONE"
        }
      }
    }

    visibility_config {
      cloudwatch_metrics_enabled = true
      metric_name                = "${var.name}-too-large"
      sampled_requests_enabled   = true
    }
  }

  # -- what is in it

  rule {
    name     = "known-bad-inputs"
    priority = 4

    override_action {
      none {}
    }

    statement {
      managed_rule_group_statement {
        vendor_name = "AWS"
        name        = "AWSManagedRulesKnownBadInputsRuleSet"
      }
    }

    visibility_config {
      cloudwatch_metrics_enabled = true
      metric_name                = "${var.name}-known-bad-inputs"
      sampled_requests_enabled   = true
    }
  }

  # Cross-site scripting, file inclusion, requests to the metadata service, odd sizes and extensions.
  rule {
    name     = "common"
    priority = 5

    override_action {
      none {}
    }

    statement {
      managed_rule_group_statement {
        vendor_name = "AWS"
        name        = "AWSManagedRulesCommonRuleSet"

        dynamic "rule_action_override" {
          for_each = concat(keys(local.body_rules.common), local.counted_only)

          content {
            name = rule_action_override.value

            action_to_use {
              count {}
            }
          }
        }
      }
    }

    visibility_config {
      cloudwatch_metrics_enabled = true
      metric_name                = "${var.name}-common"
      sampled_requests_enabled   = true
    }
  }

  rule {
    name     = "sqli"
    priority = 6

    override_action {
      none {}
    }

    statement {
      managed_rule_group_statement {
        vendor_name = "AWS"
        name        = "AWSManagedRulesSQLiRuleSet"

        dynamic "rule_action_override" {
          for_each = keys(local.body_rules.sqli)

          content {
            name = rule_action_override.value

            action_to_use {
              count {}
            }
          }
        }
      }
    }

    visibility_config {
      cloudwatch_metrics_enabled = true
      metric_name                = "${var.name}-sqli"
      sampled_requests_enabled   = true
    }
  }

  rule {
    name     = "attacks-in-bodies"
    priority = 7

    action {
      block {
        custom_response {
          response_code            = 403
          custom_response_body_key = "refused"
        }
      }
    }

    statement {
      and_statement {
        statement {
          or_statement {
            dynamic "statement" {
              for_each = concat(values(local.body_rules.common), values(local.body_rules.sqli))

              content {
                label_match_statement {
                  scope = "LABEL"
                  key   = statement.value
                }
              }
            }
          }
        }

        statement {
          not_statement {
            statement {
              regex_match_statement {
                regex_string = local.free_text_pattern

                field_to_match {
                  uri_path {}
                }

                text_transformation {
                  priority = 0
                  type     = "NONE"
                }
              }
            }
          }
        }
      }
    }

    visibility_config {
      cloudwatch_metrics_enabled = true
      metric_name                = "${var.name}-attacks-in-bodies"
      sampled_requests_enabled   = true
    }
  }

  visibility_config {
    cloudwatch_metrics_enabled = true
    metric_name                = var.name
    sampled_requests_enabled   = true
  }
}

resource "aws_wafv2_web_acl_association" "this" {
  resource_arn = var.alb_arn
  web_acl_arn  = aws_wafv2_web_acl.this.arn
}
