output "url" {
  description = "The bridge, once domain_name points at dns_name."
  value       = local.url
}

output "dns_name" {
  description = "The load balancer: what domain_name has to be an alias of, or a CNAME."
  value       = module.alb.dns_name
}

output "zone_id" {
  description = "The hosted zone of dns_name, for an alias in Route 53."
  value       = module.alb.zone_id
}

output "nat_public_ips" {
  description = "Addresses that n8n sees the bridge come from."
  value       = module.networking.nat_public_ips
}

output "dashboard_url" {
  description = "Where people look first."
  value       = module.monitoring.dashboard_url
}

output "alarm_topic_arn" {
  description = "Topic of all alarms, for a pager to subscribe to."
  value       = module.monitoring.alarm_topic_arn
}

output "dead_letter_bucket_name" {
  description = "Bucket of dead letters."
  value       = module.storage.dead_letter_bucket_name
}
