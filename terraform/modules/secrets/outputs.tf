output "secret_arns" {
  description = "ARN of the secret by the setting that it holds; each has a value by then."
  value       = { for setting, secret in aws_secretsmanager_secret.this : setting => secret.arn }
  depends_on  = [aws_secretsmanager_secret_version.this]
}
