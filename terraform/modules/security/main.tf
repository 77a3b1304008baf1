locals {
  anywhere = "0.0.0.0/0"
  resolver = "${cidrhost(var.vpc_cidr_block, 2)}/32"
}

# A group is replaced, not changed, when its name or description is: the new one stands before the old one goes.
resource "aws_security_group" "alb" {
  #checkov:skip=CKV2_AWS_5:another module attaches it, which a scan of single modules does not see
  name_prefix = "${var.name}-alb-"
  description = "The load balancer: HTTPS from the world, on to the tasks."
  vpc_id      = var.vpc_id
  tags        = { Name = "${var.name}-alb" }

  lifecycle { create_before_destroy = true }
}

resource "aws_security_group" "task" {
  #checkov:skip=CKV2_AWS_5:another module attaches it, which a scan of single modules does not see
  name_prefix = "${var.name}-task-"
  description = "The bridge: from the load balancer only, on to n8n, Anthropic and the journal."
  vpc_id      = var.vpc_id
  tags        = { Name = "${var.name}-task" }

  lifecycle { create_before_destroy = true }
}

resource "aws_security_group" "cache" {
  #checkov:skip=CKV2_AWS_5:another module attaches it, which a scan of single modules does not see
  name_prefix = "${var.name}-cache-"
  description = "The shared journal: from the tasks only, on to nowhere."
  vpc_id      = var.vpc_id
  tags        = { Name = "${var.name}-cache" }

  lifecycle { create_before_destroy = true }
}

# -- the load balancer

resource "aws_vpc_security_group_ingress_rule" "alb_https" {
  security_group_id = aws_security_group.alb.id
  description       = "HTTPS from people and n8n, wherever they are."
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = local.anywhere
}

resource "aws_vpc_security_group_ingress_rule" "alb_http" {
  #checkov:skip=CKV_AWS_260:its listener does nothing but redirect to HTTPS
  security_group_id = aws_security_group.alb.id
  description       = "HTTP, to be redirected to HTTPS."
  ip_protocol       = "tcp"
  from_port         = 80
  to_port           = 80
  cidr_ipv4         = local.anywhere
}

resource "aws_vpc_security_group_egress_rule" "alb_to_task" {
  security_group_id            = aws_security_group.alb.id
  description                  = "Requests and health checks to the bridge."
  ip_protocol                  = "tcp"
  from_port                    = var.bridge_port
  to_port                      = var.bridge_port
  referenced_security_group_id = aws_security_group.task.id
}

# -- the tasks

resource "aws_vpc_security_group_ingress_rule" "task_from_alb" {
  security_group_id            = aws_security_group.task.id
  description                  = "Requests and health checks of the load balancer."
  ip_protocol                  = "tcp"
  from_port                    = var.bridge_port
  to_port                      = var.bridge_port
  referenced_security_group_id = aws_security_group.alb.id
}

resource "aws_vpc_security_group_egress_rule" "task_https" {
  security_group_id = aws_security_group.task.id
  description       = "HTTPS to n8n, Anthropic, NOTIFY_URL and the APIs of AWS, none of which has a fixed address."
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = local.anywhere
}

resource "aws_vpc_security_group_egress_rule" "task_dns" {
  for_each = toset(["udp", "tcp"]) # tcp where an answer is too long for a datagram

  security_group_id = aws_security_group.task.id
  description       = "Names, asked of the resolver of the VPC over ${each.key}."
  ip_protocol       = each.key
  from_port         = 53
  to_port           = 53
  cidr_ipv4         = local.resolver
}

resource "aws_vpc_security_group_egress_rule" "task_to_cache" {
  security_group_id            = aws_security_group.task.id
  description                  = "The shared journal, over TLS."
  ip_protocol                  = "tcp"
  from_port                    = var.cache_port
  to_port                      = var.cache_port
  referenced_security_group_id = aws_security_group.cache.id
}

# -- the shared journal: no egress rule, so it begins no connection

resource "aws_vpc_security_group_ingress_rule" "cache_from_task" {
  security_group_id            = aws_security_group.cache.id
  description                  = "The bridge, reading and writing its journal."
  ip_protocol                  = "tcp"
  from_port                    = var.cache_port
  to_port                      = var.cache_port
  referenced_security_group_id = aws_security_group.task.id
}
