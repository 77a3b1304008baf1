output "endpoint" {
  description = "The cluster's address."
  value       = local.endpoint
}

output "port" {
  description = "The cluster's port."
  value       = local.port
}

output "redis_url_secret_arn" {
  description = "ARN of the secret with REDIS_URL; it has its value by then."
  value       = aws_secretsmanager_secret.redis_url.arn
  depends_on  = [aws_secretsmanager_secret_version.redis_url]
}
