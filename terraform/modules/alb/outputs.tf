output "alb_arn" {
  description = "ARN, for the WAF."
  value       = aws_lb.this.arn
}

output "alb_arn_suffix" {
  description = "What CloudWatch calls the load balancer."
  value       = aws_lb.this.arn_suffix
}

output "target_group_arn" {
  description = "Target group, for the service; known once its listener stands, without which a service is refused."
  value       = aws_lb_target_group.this.arn
  depends_on  = [aws_lb_listener.https]
}

output "target_group_arn_suffix" {
  description = "What CloudWatch calls the target group."
  value       = aws_lb_target_group.this.arn_suffix
}

output "dns_name" {
  description = "Name to point the domain at."
  value       = aws_lb.this.dns_name
}

output "zone_id" {
  description = "Hosted zone of that name, for an alias record."
  value       = aws_lb.this.zone_id
}
