output "cluster_name" {
  description = "The cluster's name, a dimension of its metrics."
  value       = aws_ecs_cluster.this.name
}

output "service_name" {
  description = "The service's name, a dimension of its metrics."
  value       = aws_ecs_service.this.name
}

output "task_role_arn" {
  description = "Role that the bridge itself acts as."
  value       = aws_iam_role.task.arn
}
