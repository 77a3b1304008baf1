# What people look at first: the alarms, then from outside (the load balancer) to inside (tasks, sockets, lines).

locals {
  alarms = concat(
    [
      aws_cloudwatch_metric_alarm.task_unhealthy.arn, aws_cloudwatch_metric_alarm.high_error_rate.arn,
      aws_cloudwatch_metric_alarm.high_latency.arn, aws_cloudwatch_metric_alarm.high_memory.arn,
    ],
    [for name in keys(local.told) : aws_cloudwatch_metric_alarm.told[name].arn],
  )

  of_alb     = ["LoadBalancer", var.alb_arn_suffix]
  of_targets = concat(["TargetGroup", var.target_group_arn_suffix], local.of_alb)
  of_service = ["ClusterName", var.cluster_name, "ServiceName", var.service_name]

  # Two in a row; each is given its place below.
  graphs = [
    {
      title = "Requests"
      metrics = [
        concat(["AWS/ApplicationELB", "RequestCount"], local.of_alb, [{ stat = "Sum", label = "requests" }]),
      ]
    },
    {
      title = "Errors"
      metrics = [
        concat(["AWS/ApplicationELB", "HTTPCode_ELB_5XX_Count"], local.of_alb, [{ stat = "Sum", label = "5xx, load balancer" }]),
        concat(["AWS/ApplicationELB", "HTTPCode_Target_5XX_Count"], local.of_targets, [{ stat = "Sum", label = "5xx, bridge" }]),
        concat(["AWS/ApplicationELB", "HTTPCode_Target_4XX_Count"], local.of_targets, [{ stat = "Sum", label = "4xx, bridge" }]),
      ]
    },
    {
      title = "Latency (s)"
      metrics = [
        concat(["AWS/ApplicationELB", "TargetResponseTime"], local.of_targets, [{ stat = "p99", label = "p99" }]),
        concat(["AWS/ApplicationELB", "TargetResponseTime"], local.of_targets, [{ stat = "p50", label = "p50" }]),
      ]
    },
    {
      title = "Active WebSocket connections and turns"
      metrics = [
        [local.namespace, "ActiveConnections", { stat = "Sum", label = "connections" }],
        [local.namespace, "ActiveTurns", { stat = "Sum", label = "turns" }],
      ]
    },
    {
      title = "CPU (%)"
      metrics = [
        concat(["AWS/ECS", "CPUUtilization"], local.of_service, [{ stat = "Average", label = "average" }]),
        concat(["AWS/ECS", "CPUUtilization"], local.of_service, [{ stat = "Maximum", label = "highest" }]),
      ]
    },
    {
      title = "Memory (%)"
      metrics = [
        concat(["AWS/ECS", "MemoryUtilization"], local.of_service, [{ stat = "Average", label = "average" }]),
        concat(["AWS/ECS", "MemoryUtilization"], local.of_service, [{ stat = "Maximum", label = "highest" }]),
      ]
    },
    {
      title = "Tasks"
      metrics = [
        concat(["ECS/ContainerInsights", "DesiredTaskCount"], local.of_service, [{ stat = "Average", label = "desired" }]),
        concat(["ECS/ContainerInsights", "RunningTaskCount"], local.of_service, [{ stat = "Average", label = "running" }]),
      ]
    },
    {
      title   = "For a person"
      metrics = [for name in keys(local.told) : [local.namespace, name, { stat = "Sum", label = name }]]
    },
  ]
}

resource "aws_cloudwatch_dashboard" "this" {
  dashboard_name = var.name
  dashboard_body = jsonencode({
    widgets = concat(
      [{
        type       = "alarm"
        x          = 0
        y          = 0
        width      = 24
        height     = 3
        properties = { title = "Alarms; docs/runbooks has a page for each", alarms = local.alarms }
      }],
      [for number, graph in local.graphs : {
        type   = "metric"
        x      = 12 * (number % 2)
        y      = 3 + 6 * floor(number / 2)
        width  = 12
        height = 6
        properties = {
          title   = graph.title
          region  = local.region
          view    = "timeSeries"
          period  = 60
          metrics = graph.metrics
          yAxis   = { left = { min = 0 } }
        }
      }],
      [{
        type   = "log"
        x      = 0
        y      = 3 + 6 * ceil(length(local.graphs) / 2)
        width  = 24
        height = 6
        properties = {
          title  = "Errors"
          region = local.region
          view   = "table"
          query  = "SOURCE '${aws_cloudwatch_log_group.this.name}' | ${aws_cloudwatch_query_definition.this["errors"].query_string}"
        }
      }],
    )
  })
}
