output "dead_letter_bucket_name" {
  description = "Bucket of dead letters: DEAD_LETTER_URL=s3://NAME/dead-letters."
  value       = aws_s3_bucket.dead_letters.bucket
}

output "dead_letter_bucket_arn" {
  description = "Its ARN, for the role that writes."
  value       = aws_s3_bucket.dead_letters.arn
}

output "dead_letter_table_name" {
  description = "Table of dead letters: DEAD_LETTER_URL=dynamodb://NAME."
  value       = aws_dynamodb_table.dead_letters.name
}

output "dead_letter_table_arn" {
  description = "Its ARN, for the role that writes."
  value       = aws_dynamodb_table.dead_letters.arn
}

output "log_bucket_name" {
  description = "Bucket of access logs; known once the load balancer may write there, which it tries at its making."
  value       = aws_s3_bucket_policy.logs.bucket
}
