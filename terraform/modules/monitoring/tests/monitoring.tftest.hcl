mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_data "aws_region" {
    defaults = { region = "eu-central-1" }
  }
  mock_resource "aws_sns_topic" {
    defaults = { arn = "arn:aws:sns:eu-central-1:123456789012:bridge-test-alarms" }
  }
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000000" }
  }
  mock_resource "aws_cloudwatch_metric_alarm" {
    defaults = { arn = "arn:aws:cloudwatch:eu-central-1:123456789012:alarm:bridge-test" }
  }
}

variables {
  name                    = "bridge-test"
  log_group_name          = "/ecs/bridge-test"
  cluster_name            = "bridge-test"
  service_name            = "bridge-test-service"
  alb_arn_suffix          = "app/bridge-test/1"
  target_group_arn_suffix = "targetgroup/bridge-test/2"
  alarm_email             = "on-call@example.com"
}

run "lines_are_kept_for_30_days" {
  command = plan

  assert {
    condition     = aws_cloudwatch_log_group.this.name == "/ecs/bridge-test" && aws_cloudwatch_log_group.this.retention_in_days == 30
    error_message = "the log group must be kept 30 days"
  }
}

run "the_saved_queries_are_word_for_word_those_that_were_agreed" {
  command = plan

  assert {
    condition = { for key, query in aws_cloudwatch_query_definition.this : query.name => query.query_string } == {
      "bridge-test/errors"             = "fields @timestamp, @message, sessionId | filter level = \"error\" | sort @timestamp desc | limit 100"
      "bridge-test/slow-claude"        = "fields @timestamp, duration, sessionId | filter message like /Claude execution complete/ | filter duration > 5000 | sort duration desc"
      "bridge-test/unrouted-callbacks" = "fields @timestamp, workflowId, @message | filter message like /No session found for workflow/ | sort @timestamp desc"
    }
    error_message = "three queries, as they were agreed"
  }
  assert {
    condition     = alltrue([for query in aws_cloudwatch_query_definition.this : query.log_group_names == tolist(["/ecs/bridge-test"])])
    error_message = "of the bridge's log group"
  }
}

run "missing_tasks_are_told_and_so_is_silence" {
  command = plan

  assert {
    condition     = aws_cloudwatch_metric_alarm.task_unhealthy.alarm_name == "bridge-test-TaskUnhealthy" && aws_cloudwatch_metric_alarm.task_unhealthy.treat_missing_data == "breaching"
    error_message = "no data is no task"
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.task_unhealthy.comparison_operator == "GreaterThanThreshold" && aws_cloudwatch_metric_alarm.task_unhealthy.threshold == 0
    error_message = "more than 0"
  }
  assert {
    condition     = one([for query in aws_cloudwatch_metric_alarm.task_unhealthy.metric_query : query.expression if query.expression != null]) == "desired - running"
    error_message = "tasks that are missing"
  }
  assert {
    condition = { for query in aws_cloudwatch_metric_alarm.task_unhealthy.metric_query : query.id => query.metric[0].metric_name if length(query.metric) > 0 } == {
      desired = "DesiredTaskCount"
      running = "RunningTaskCount"
    }
    error_message = "as Container Insights counts them"
  }
  assert {
    condition     = alltrue([for query in aws_cloudwatch_metric_alarm.task_unhealthy.metric_query : query.metric[0].namespace == "ECS/ContainerInsights" && query.metric[0].dimensions == tomap({ ClusterName = "bridge-test", ServiceName = "bridge-test-service" }) if length(query.metric) > 0])
    error_message = "of this service"
  }
}

run "more_than_10_answers_of_5xx_in_5_minutes_are_told" {
  command = plan

  assert {
    condition     = aws_cloudwatch_metric_alarm.high_error_rate.alarm_name == "bridge-test-HighErrorRate" && aws_cloudwatch_metric_alarm.high_error_rate.threshold == 10 && aws_cloudwatch_metric_alarm.high_error_rate.comparison_operator == "GreaterThanThreshold" && aws_cloudwatch_metric_alarm.high_error_rate.evaluation_periods == 1
    error_message = "more than 10"
  }
  assert {
    condition     = one([for query in aws_cloudwatch_metric_alarm.high_error_rate.metric_query : query.expression if query.expression != null]) == "FILL(balancer, 0) + FILL(bridge, 0)"
    error_message = "both together, though one has no data"
  }
  assert {
    condition = { for query in aws_cloudwatch_metric_alarm.high_error_rate.metric_query : query.id => join(" ", concat(
      [query.metric[0].namespace, query.metric[0].metric_name, query.metric[0].stat, query.metric[0].period],
      [for dimension, value in query.metric[0].dimensions : "${dimension}=${value}"],
      )) if length(query.metric) > 0 } == {
      balancer = "AWS/ApplicationELB HTTPCode_ELB_5XX_Count Sum 300 LoadBalancer=app/bridge-test/1"
      bridge   = "AWS/ApplicationELB HTTPCode_Target_5XX_Count Sum 300 LoadBalancer=app/bridge-test/1 TargetGroup=targetgroup/bridge-test/2"
    }
    error_message = "the load balancer's and the bridge's, within 300 s"
  }
}

run "slow_answers_and_full_memory_are_told" {
  command = plan

  assert {
    condition     = aws_cloudwatch_metric_alarm.high_latency.alarm_name == "bridge-test-HighLatency" && aws_cloudwatch_metric_alarm.high_latency.metric_name == "TargetResponseTime" && aws_cloudwatch_metric_alarm.high_latency.extended_statistic == "p99" && aws_cloudwatch_metric_alarm.high_latency.threshold == 5 && aws_cloudwatch_metric_alarm.high_latency.comparison_operator == "GreaterThanThreshold"
    error_message = "p99 over 5 s"
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.high_memory.alarm_name == "bridge-test-HighMemory" && aws_cloudwatch_metric_alarm.high_memory.metric_name == "MemoryUtilization" && aws_cloudwatch_metric_alarm.high_memory.threshold == 80 && aws_cloudwatch_metric_alarm.high_memory.comparison_operator == "GreaterThanThreshold"
    error_message = "memory over 80 %"
  }
}

run "what_only_a_person_can_mend_is_told" {
  command = plan

  assert {
    condition     = toset([for alarm in aws_cloudwatch_metric_alarm.told : alarm.alarm_name]) == toset(["bridge-test-UnroutedCallbacks", "bridge-test-BlockedRepairs", "bridge-test-DeadLetters", "bridge-test-DeadLetterCopies"])
    error_message = "four of our own"
  }
  assert {
    condition     = alltrue([for key, alarm in aws_cloudwatch_metric_alarm.told : alarm.threshold == 0 && alarm.namespace == "Bridge/bridge-test" && alarm.metric_name == key && alarm.statistic == "Sum" && alarm.treat_missing_data == "notBreaching"])
    error_message = "any of them, by its own metric"
  }
  assert {
    condition     = alltrue([for filter in aws_cloudwatch_log_metric_filter.this : filter.log_group_name == "/ecs/bridge-test" && filter.metric_transformation[0].namespace == "Bridge/bridge-test"])
    error_message = "read out of the bridge's lines"
  }
  assert {
    condition     = aws_cloudwatch_log_metric_filter.this["ActiveConnections"].pattern == "{ $.message = \"Memory usage\" }" && aws_cloudwatch_log_metric_filter.this["ActiveConnections"].metric_transformation[0].value == "$.activeConnections"
    error_message = "connections come from the line about memory"
  }
  assert {
    condition     = aws_cloudwatch_log_metric_filter.this["DeadLetterCopies"].pattern == "{ $.message = \"a dead letter's copy was given up*\" }"
    error_message = "why it was given up follows in the line"
  }
  assert {
    condition     = alltrue([for key, filter in aws_cloudwatch_log_metric_filter.this : filter.metric_transformation[0].default_value == (contains(keys(aws_cloudwatch_metric_alarm.told), key) ? "0" : null)])
    error_message = "what is counted is 0 otherwise, so that its alarm ends; what is measured is not"
  }
}

run "every_alarm_names_its_runbook_and_reaches_people" {
  command = apply

  assert {
    condition = alltrue([
      for alarm in concat(
        [aws_cloudwatch_metric_alarm.task_unhealthy, aws_cloudwatch_metric_alarm.high_error_rate, aws_cloudwatch_metric_alarm.high_latency, aws_cloudwatch_metric_alarm.high_memory],
        values(aws_cloudwatch_metric_alarm.told),
      ) : endswith(alarm.alarm_description, "Runbook: docs/runbooks/${trimprefix(alarm.alarm_name, "bridge-test-")}.md") && alarm.alarm_actions == toset([aws_sns_topic.alarms.arn]) && alarm.ok_actions == toset([aws_sns_topic.alarms.arn])
    ])
    error_message = "each must name its page, and tell of its begin and end"
  }
  assert {
    condition     = aws_sns_topic.alarms.kms_master_key_id == aws_kms_key.alarms.arn && aws_kms_key.alarms.enable_key_rotation
    error_message = "encrypted by a key of its own"
  }
  assert {
    condition     = one([for statement in jsondecode(aws_kms_key.alarms.policy).Statement : join(",", statement.Action) if try(statement.Principal.Service, "") == "cloudwatch.amazonaws.com"]) == "kms:Decrypt,kms:GenerateDataKey*"
    error_message = "without the key CloudWatch publishes nothing, and says so nowhere"
  }
  assert {
    condition     = aws_sns_topic_subscription.email[0].endpoint == "on-call@example.com" && aws_sns_topic_subscription.email[0].protocol == "email"
    error_message = "alarms must reach the address"
  }
  assert {
    condition     = output.alarm_topic_arn == aws_sns_topic.alarms.arn && output.dashboard_url == "https://eu-central-1.console.aws.amazon.com/cloudwatch/home?region=eu-central-1#dashboards/dashboard/bridge-test"
    error_message = "the topic and the dashboard's address must be given"
  }
}

run "the_dashboard_shows_what_was_agreed" {
  command = apply

  assert {
    condition = length(setsubtract(
      [
        "AWS/ECS CPUUtilization", "AWS/ECS MemoryUtilization", "AWS/ApplicationELB RequestCount",
        "AWS/ApplicationELB TargetResponseTime", "AWS/ApplicationELB HTTPCode_ELB_5XX_Count",
        "AWS/ApplicationELB HTTPCode_Target_5XX_Count", "Bridge/bridge-test ActiveConnections",
      ],
      flatten([for widget in jsondecode(aws_cloudwatch_dashboard.this.dashboard_body).widgets : [for metric in try(widget.properties.metrics, []) : "${metric[0]} ${metric[1]}"]]),
    )) == 0
    error_message = "CPU, memory, requests, latency, errors, connections"
  }
  assert {
    condition     = length(jsondecode(aws_cloudwatch_dashboard.this.dashboard_body).widgets[0].properties.alarms) == 8
    error_message = "all alarms first"
  }
  assert {
    condition = alltrue(flatten([
      for widget in jsondecode(aws_cloudwatch_dashboard.this.dashboard_body).widgets : [
        for metric in try(widget.properties.metrics, []) : metric[length(metric) - 1].stat == "Sum" if metric[1] == "ActiveConnections"
      ]
    ]))
    error_message = "each task tells its own connections once a minute; their sum is all"
  }
}

run "without_an_address_nobody_is_subscribed" {
  command = plan
  variables {
    alarm_email = null
  }

  assert {
    condition     = length(aws_sns_topic_subscription.email) == 0
    error_message = "others subscribe to the topic"
  }
}

run "what_is_no_address_is_refused" {
  command = plan
  variables {
    alarm_email = "on-call"
  }
  expect_failures = [var.alarm_email]
}
