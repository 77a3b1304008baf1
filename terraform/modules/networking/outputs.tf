output "vpc_id" {
  description = "The VPC."
  value       = aws_vpc.this.id
}

output "vpc_cidr_block" {
  description = "Its addresses; the resolver is the third of them."
  value       = var.cidr_block
}

output "public_subnet_ids" {
  description = "One per zone, in the order of the zones; for the load balancer."
  value       = [for zone in var.availability_zones : aws_subnet.public[zone].id]
}

output "private_subnet_ids" {
  description = "One per zone, in the order of the zones; for the tasks and the cache."
  value       = [for zone in var.availability_zones : aws_subnet.private[zone].id]
}

output "nat_public_ips" {
  description = "The addresses that n8n sees requests of the bridge come from."
  value       = [for address in aws_eip.nat : address.public_ip]
}
