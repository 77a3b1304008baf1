# One alarm for each page of docs/runbooks. What an alarm says names the page.

locals {
  service = { ClusterName = var.cluster_name, ServiceName = var.service_name }
  alb     = { LoadBalancer = var.alb_arn_suffix }
  targets = { LoadBalancer = var.alb_arn_suffix, TargetGroup = var.target_group_arn_suffix }

  # Read out of log lines; any of them is for a person.
  told = {
    UnroutedCallbacks = "n8n reported a failure of a workflow that no open session owns, so nobody is told and nothing is repaired."
    BlockedRepairs    = "A workflow goes on failing and is not repaired any more until a person asks for it."
    DeadLetterCopies  = "A dead letter was not taken by its store in four days, and is in the journal only."
    DeadLetters       = "A callback could not be read, was too large or was over the limit, and is kept as a dead letter."
  }
}

resource "aws_cloudwatch_metric_alarm" "task_unhealthy" {
  alarm_name        = "${var.name}-TaskUnhealthy"
  alarm_description = "Fewer tasks run than are wanted. Runbook: docs/runbooks/TaskUnhealthy.md"
  alarm_actions     = [aws_sns_topic.alarms.arn]
  ok_actions        = [aws_sns_topic.alarms.arn]

  # Three minutes: a task that scaling has asked for needs one or two until it runs.
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  evaluation_periods  = 3
  treat_missing_data  = "breaching" # nobody counts where nothing runs

  metric_query {
    id          = "missing"
    expression  = "desired - running"
    label       = "Tasks that are missing"
    return_data = true
  }

  metric_query {
    id = "desired"

    metric {
      namespace   = "ECS/ContainerInsights"
      metric_name = "DesiredTaskCount"
      dimensions  = local.service
      period      = 60
      stat        = "Average"
    }
  }

  metric_query {
    id = "running"

    metric {
      namespace   = "ECS/ContainerInsights"
      metric_name = "RunningTaskCount"
      dimensions  = local.service
      period      = 60
      stat        = "Average"
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "high_error_rate" {
  alarm_name        = "${var.name}-HighErrorRate"
  alarm_description = "More than 10 answers of 5xx in 5 minutes, by the bridge or the load balancer. Runbook: docs/runbooks/HighErrorRate.md"
  alarm_actions     = [aws_sns_topic.alarms.arn]
  ok_actions        = [aws_sns_topic.alarms.arn]

  comparison_operator = "GreaterThanThreshold"
  threshold           = 10
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching" # no errors, no data

  # Either is missing while the other one counts.
  metric_query {
    id          = "errors"
    expression  = "FILL(balancer, 0) + FILL(bridge, 0)"
    label       = "5xx"
    return_data = true
  }

  metric_query {
    id = "balancer"

    metric {
      namespace   = "AWS/ApplicationELB"
      metric_name = "HTTPCode_ELB_5XX_Count"
      dimensions  = local.alb
      period      = 300
      stat        = "Sum"
    }
  }

  metric_query {
    id = "bridge"

    metric {
      namespace   = "AWS/ApplicationELB"
      metric_name = "HTTPCode_Target_5XX_Count"
      dimensions  = local.targets
      period      = 300
      stat        = "Sum"
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "high_latency" {
  alarm_name        = "${var.name}-HighLatency"
  alarm_description = "The slowest hundredth of the answers takes more than 5 s. Runbook: docs/runbooks/HighLatency.md"
  alarm_actions     = [aws_sns_topic.alarms.arn]
  ok_actions        = [aws_sns_topic.alarms.arn]

  namespace          = "AWS/ApplicationELB"
  metric_name        = "TargetResponseTime"
  dimensions         = local.targets
  extended_statistic = "p99"
  period             = 60

  # With little to do one slow answer is the slowest hundredth: three of five minutes have to have one.
  comparison_operator = "GreaterThanThreshold"
  threshold           = 5
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  treat_missing_data  = "notBreaching"
}

resource "aws_cloudwatch_metric_alarm" "high_memory" {
  alarm_name        = "${var.name}-HighMemory"
  alarm_description = "A task uses more than 80 % of its memory; at 100 % it is killed. Runbook: docs/runbooks/HighMemory.md"
  alarm_actions     = [aws_sns_topic.alarms.arn]
  ok_actions        = [aws_sns_topic.alarms.arn]

  namespace   = "AWS/ECS"
  metric_name = "MemoryUtilization"
  dimensions  = local.service
  statistic   = "Maximum" # of the tasks: an average hides the one that is about to be killed
  period      = 60

  comparison_operator = "GreaterThanThreshold"
  threshold           = 80
  evaluation_periods  = 5
  treat_missing_data  = "notBreaching" # TaskUnhealthy tells of a service that is gone
}

resource "aws_cloudwatch_metric_alarm" "told" {
  for_each = local.told

  alarm_name        = "${var.name}-${each.key}"
  alarm_description = "${each.value} Runbook: docs/runbooks/${each.key}.md"
  alarm_actions     = [aws_sns_topic.alarms.arn]
  ok_actions        = [aws_sns_topic.alarms.arn]

  namespace   = local.namespace
  metric_name = aws_cloudwatch_log_metric_filter.this[each.key].metric_transformation[0].name
  statistic   = "Sum"
  period      = 300

  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
}
