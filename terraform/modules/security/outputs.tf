output "alb_security_group_id" {
  description = "Group of the load balancer."
  value       = aws_security_group.alb.id
}

output "task_security_group_id" {
  description = "Group of the tasks."
  value       = aws_security_group.task.id
}

output "cache_security_group_id" {
  description = "Group of the shared journal."
  value       = aws_security_group.cache.id
}
