mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_region" {
    defaults = { region = "eu-central-1" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  # The real provider checks the form of ARNs.
  mock_resource "aws_wafv2_web_acl" {
    override_during = plan
    defaults        = { arn = "arn:aws:wafv2:eu-central-1:123456789012:regional/webacl/bridge-test/00000000-0000-0000-0000-000000000000" }
  }
}

variables {
  name    = "bridge-test"
  alb_arn = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/bridge-test/0123456789abcdef"
}

run "attacks_are_blocked_and_errors_pass" {
  command = plan

  # -- it stands in front of the load balancer

  assert {
    condition     = aws_wafv2_web_acl_association.this.resource_arn == var.alb_arn && aws_wafv2_web_acl_association.this.web_acl_arn == aws_wafv2_web_acl.this.arn
    error_message = "The web ACL is not associated with the load balancer."
  }
  assert {
    condition     = aws_wafv2_web_acl.this.scope == "REGIONAL" && length(aws_wafv2_web_acl.this.default_action[0].allow) == 1
    error_message = "What meets no rule must pass."
  }

  # -- rules stand in an order that is meant

  assert {
    condition = { for rule in aws_wafv2_web_acl.this.rule : rule.name => rule.priority } == {
      "ip-reputation"    = 0, "rate" = 1, "metrics" = 2, "too-large" = 3,
      "known-bad-inputs" = 4, "common" = 5, "sqli" = 6, "attacks-in-bodies" = 7
    }
    error_message = "Rules are missing, or in another order: attacks-in-bodies needs the labels of common and sqli."
  }
  assert {
    condition     = alltrue([for rule in aws_wafv2_web_acl.this.rule : rule.visibility_config[0].cloudwatch_metrics_enabled && startswith(rule.visibility_config[0].metric_name, "bridge-test-")])
    error_message = "A rule has no metric."
  }

  # -- the groups of aws are there and block

  assert {
    condition = {
      for rule in aws_wafv2_web_acl.this.rule : rule.name => rule.statement[0].managed_rule_group_statement[0].name
      if length(rule.override_action) > 0
      } == {
      "ip-reputation"    = "AWSManagedRulesAmazonIpReputationList"
      "known-bad-inputs" = "AWSManagedRulesKnownBadInputsRuleSet"
      "common"           = "AWSManagedRulesCommonRuleSet"
      "sqli"             = "AWSManagedRulesSQLiRuleSet"
    }
    error_message = "A managed group is missing."
  }
  assert {
    condition     = alltrue([for rule in aws_wafv2_web_acl.this.rule : length(rule.override_action[0].none) == 1 if length(rule.override_action) > 0])
    error_message = "A managed group only counts."
  }
  assert {
    condition     = alltrue([for rule in aws_wafv2_web_acl.this.rule : length(rule.action[0].block) == 1 if length(rule.action) > 0])
    error_message = "A rule of ours does not block."
  }
  assert {
    condition     = alltrue([for rule in aws_wafv2_web_acl.this.rule : length(rule.statement[0].managed_rule_group_statement[0].scope_down_statement) == 0 if length(rule.override_action) > 0])
    error_message = "A managed group leaves requests out: then their paths, headers and queries are not looked at, either."
  }

  # -- floods are blocked by address the callback too

  assert {
    condition = alltrue([
      for rule in aws_wafv2_web_acl.this.rule :
      rule.statement[0].rate_based_statement[0].limit == 1000 && rule.statement[0].rate_based_statement[0].evaluation_window_sec == 60 && rule.statement[0].rate_based_statement[0].aggregate_key_type == "IP" && length(rule.statement[0].rate_based_statement[0].scope_down_statement) == 0
      if rule.name == "rate"
    ])
    error_message = "The rate must be 1000 a minute, for each address, whatever is asked for."
  }
  assert {
    condition = alltrue([
      for rule in aws_wafv2_web_acl.this.rule : one([for rate in rule.action : rate.block[0].custom_response[0].response_code]) == 429 && one(one([for rate in rule.action : rate.block[0].custom_response[0].response_header])).name == "Retry-After"
      if rule.name == "rate"
    ])
    error_message = "A flood must be answered 429 with Retry-After."
  }

  # -- the callback may carry sql and html in its body
  # Errors carry SQL, HTML, paths and addresses: the rules about bodies must not stop them on their way.

  assert {
    condition = {
      for rule in aws_wafv2_web_acl.this.rule : rule.name => toset([for override in rule.statement[0].managed_rule_group_statement[0].rule_action_override : override.name if length(override.action_to_use[0].count) == 1])
      if length(rule.override_action) > 0
      } == {
      "ip-reputation"    = toset([])
      "known-bad-inputs" = toset([])
      "common"           = toset(["CrossSiteScripting_BODY", "EC2MetaDataSSRF_BODY", "GenericLFI_BODY", "GenericRFI_BODY", "SizeRestrictions_BODY", "NoUserAgent_HEADER"])
      "sqli"             = toset(["SQLi_BODY", "SQLiExtendedPatterns_BODY"])
    }
    error_message = "Rules about bodies block by themselves, or others do not."
  }
  assert {
    condition = alltrue([
      for path, free in {
        "/callbacks/n8n/error"     = true
        "/sessions/ab12/messages"  = true
        "/callbacks/n8n/error/"    = false
        "/callbacks/n8n/errors"    = false
        "/x/callbacks/n8n/error"   = false
        "/sessions/a/b/messages"   = false
        "/sessions/ab12/workflows" = false
        "/sessions"                = false
        "/ws"                      = false
        } : alltrue([
          for rule in aws_wafv2_web_acl.this.rule :
          (length(regexall(rule.statement[0].and_statement[0].statement[1].not_statement[0].statement[0].regex_match_statement[0].regex_string, path)) > 0) == free
          if rule.name == "attacks-in-bodies"
      ])
    ])
    error_message = "Bodies must be free on the callback's path and that of messages, and nowhere else."
  }
  assert {
    condition     = alltrue([for rule in aws_wafv2_web_acl.this.rule : one(rule.statement[0].and_statement[0].statement[1].not_statement[0].statement[0].regex_match_statement[0].text_transformation).type == "NONE" if rule.name == "attacks-in-bodies"])
    error_message = "A path that has to be decoded first must not be free."
  }

  # -- the same in another body is blocked

  assert {
    condition = alltrue([
      for rule in aws_wafv2_web_acl.this.rule : toset([
        for statement in rule.statement[0].and_statement[0].statement[0].or_statement[0].statement : statement.label_match_statement[0].key
        ]) == toset([
        "awswaf:managed:aws:core-rule-set:CrossSiteScripting_Body",
        "awswaf:managed:aws:core-rule-set:EC2MetaDataSSRF_Body",
        "awswaf:managed:aws:core-rule-set:GenericLFI_Body",
        "awswaf:managed:aws:core-rule-set:GenericRFI_Body",
        "awswaf:managed:aws:sql-database:SQLi_Body",
        "awswaf:managed:aws:sql-database:SQLiExtendedPatterns_Body",
      ]) if rule.name == "attacks-in-bodies"
    ])
    error_message = "What was found in a body does not block it."
  }

  # -- bodies may be as large as the bridge reads them

  assert {
    condition = alltrue([
      for length, blocked in {
        "0"        = false, "8193" = false, "1048576" = false, "4194304" = false, "16777216" = false, "16999999" = false
        "17000000" = true, "20000000" = true, "99999999" = true, "100000000" = true, "0017000000" = true
        } : alltrue([
          for rule in aws_wafv2_web_acl.this.rule :
          (length(regexall(rule.statement[0].regex_match_statement[0].regex_string, length)) > 0) == blocked && rule.statement[0].regex_match_statement[0].field_to_match[0].single_header[0].name == "content-length"
          if rule.name == "too-large"
      ])
    ])
    error_message = "16 MiB must pass, and what declares more than 17 MB must not."
  }

  # -- metrics are refused however they are written

  assert {
    condition = alltrue([
      for path, refused in { "/metrics" = true, "/metrics/" = true, "//metrics" = true, "/metrics/x" = true, "/metricsx" = false, "/" = false, "/sessions/metrics" = false } : alltrue([
        for rule in aws_wafv2_web_acl.this.rule : (length(regexall(rule.statement[0].regex_match_statement[0].regex_string, path)) > 0) == refused
        if rule.name == "metrics"
      ])
    ])
    error_message = "/metrics, and nothing else, must be refused."
  }
  assert {
    condition     = alltrue([for rule in aws_wafv2_web_acl.this.rule : toset([for transformation in rule.statement[0].regex_match_statement[0].text_transformation : transformation.type]) == toset(["URL_DECODE", "NORMALIZE_PATH", "LOWERCASE"]) if rule.name == "metrics"])
    error_message = "The path must be decoded first."
  }

  # -- what is blocked is logged without credentials

  assert {
    condition     = aws_wafv2_web_acl_logging_configuration.this.resource_arn == aws_wafv2_web_acl.this.arn && one(aws_wafv2_web_acl_logging_configuration.this.log_destination_configs) == "arn:aws:logs:eu-central-1:123456789012:log-group:aws-waf-logs-bridge-test"
    error_message = "The web ACL is not logged."
  }
  assert {
    condition     = aws_cloudwatch_log_group.this.retention_in_days == 30
    error_message = "The log must be kept 30 days."
  }
  assert {
    condition     = toset([for field in aws_wafv2_web_acl_logging_configuration.this.redacted_fields : field.single_header[0].name]) == toset(["authorization", "cookie"])
    error_message = "The log shows credentials."
  }
  assert {
    condition     = aws_wafv2_web_acl_logging_configuration.this.logging_filter[0].default_behavior == "DROP" && toset([for condition in one(aws_wafv2_web_acl_logging_configuration.this.logging_filter[0].filter).condition : condition.action_condition[0].action]) == toset(["BLOCK", "COUNT"])
    error_message = "The log must have what was blocked and what was counted."
  }
  assert {
    condition = toset([
      for protection in aws_wafv2_web_acl.this.data_protection_config[0].data_protection : "${protection.field[0].field_type} ${join(",", coalesce(protection.field[0].field_keys, []))}"
      if protection.action == "SUBSTITUTION"
    ]) == toset(["SINGLE_HEADER authorization,cookie", "BODY "])
    error_message = "Samples in the console show credentials or bodies."
  }
  assert {
    condition     = jsondecode(aws_cloudwatch_log_resource_policy.this.policy_document).Statement[0].Principal.Service == "delivery.logs.amazonaws.com" && jsondecode(aws_cloudwatch_log_resource_policy.this.policy_document).Statement[0].Condition.StringEquals["aws:SourceAccount"] == "123456789012"
    error_message = "The log cannot be written, or others can write it."
  }
}

run "a_rate_below_what_the_bridge_takes_is_refused" {
  command = plan
  variables {
    rate_limit_per_minute = 100
  }
  expect_failures = [var.rate_limit_per_minute]
}
