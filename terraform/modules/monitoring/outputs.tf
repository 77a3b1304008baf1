output "dashboard_url" {
  description = "Where people look first."
  value       = "https://${local.region}.console.aws.amazon.com/cloudwatch/home?region=${local.region}#dashboards/dashboard/${aws_cloudwatch_dashboard.this.dashboard_name}"
}

output "alarm_topic_arn" {
  description = "Topic that every alarm and its end are published to."
  value       = aws_sns_topic.alarms.arn
}

output "log_group_name" {
  description = "The bridge's log group."
  value       = aws_cloudwatch_log_group.this.name
}
