mock_provider "aws" {}

# Ids that a plan knows, so that it tells which group is meant.
override_resource {
  target          = aws_security_group.alb
  override_during = plan
  values          = { id = "sg-0000000000000000a" }
}

override_resource {
  target          = aws_security_group.task
  override_during = plan
  values          = { id = "sg-0000000000000000b" }
}

override_resource {
  target          = aws_security_group.cache
  override_during = plan
  values          = { id = "sg-0000000000000000c" }
}

variables {
  name           = "bridge-test"
  vpc_id         = "vpc-0123456789abcdef0"
  vpc_cidr_block = "10.20.0.0/16"
}

run "rules_say_who_may_reach_whom" {
  command = plan

  # -- the world reaches 443 and 80 of the load balancer

  assert {
    condition = alltrue([
      for port, rule in { 443 = aws_vpc_security_group_ingress_rule.alb_https, 80 = aws_vpc_security_group_ingress_rule.alb_http } :
      rule.security_group_id == aws_security_group.alb.id && rule.ip_protocol == "tcp" && rule.from_port == tonumber(port) && rule.to_port == tonumber(port) && rule.cidr_ipv4 == "0.0.0.0/0"
    ])
    error_message = "443 and 80 of the load balancer must be open to the world, and nothing beside them."
  }

  # -- tasks are reached by the load balancer only on the bridges port

  assert {
    condition     = aws_vpc_security_group_ingress_rule.task_from_alb.security_group_id == aws_security_group.task.id && aws_vpc_security_group_ingress_rule.task_from_alb.referenced_security_group_id == aws_security_group.alb.id && aws_vpc_security_group_ingress_rule.task_from_alb.cidr_ipv4 == null
    error_message = "Only the load balancer's group may reach the tasks."
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.task_from_alb.ip_protocol == "tcp" && aws_vpc_security_group_ingress_rule.task_from_alb.from_port == 3000 && aws_vpc_security_group_ingress_rule.task_from_alb.to_port == 3000
    error_message = "Only the bridge's port of a task may be reached."
  }
  assert {
    condition     = aws_vpc_security_group_egress_rule.alb_to_task.security_group_id == aws_security_group.alb.id && aws_vpc_security_group_egress_rule.alb_to_task.referenced_security_group_id == aws_security_group.task.id && aws_vpc_security_group_egress_rule.alb_to_task.from_port == 3000 && aws_vpc_security_group_egress_rule.alb_to_task.to_port == 3000
    error_message = "The load balancer may reach the bridge's port of the tasks only."
  }

  # -- the journal is reached by the tasks only

  assert {
    condition     = aws_vpc_security_group_ingress_rule.cache_from_task.security_group_id == aws_security_group.cache.id && aws_vpc_security_group_ingress_rule.cache_from_task.referenced_security_group_id == aws_security_group.task.id && aws_vpc_security_group_ingress_rule.cache_from_task.cidr_ipv4 == null
    error_message = "Only the tasks' group may reach the journal."
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.cache_from_task.from_port == 6379 && aws_vpc_security_group_ingress_rule.cache_from_task.to_port == 6379
    error_message = "Only the journal's port may be reached."
  }

  # -- tasks go out for https names and the journal

  assert {
    condition     = aws_vpc_security_group_egress_rule.task_https.security_group_id == aws_security_group.task.id && aws_vpc_security_group_egress_rule.task_https.cidr_ipv4 == "0.0.0.0/0" && aws_vpc_security_group_egress_rule.task_https.from_port == 443 && aws_vpc_security_group_egress_rule.task_https.to_port == 443
    error_message = "To the world, tasks may go by HTTPS only."
  }
  assert {
    condition     = alltrue([for protocol, rule in aws_vpc_security_group_egress_rule.task_dns : rule.ip_protocol == protocol && rule.cidr_ipv4 == "10.20.0.2/32" && rule.from_port == 53 && rule.to_port == 53]) && toset(keys(aws_vpc_security_group_egress_rule.task_dns)) == toset(["tcp", "udp"])
    error_message = "Names are asked of the VPC's resolver, and of nobody else."
  }
  assert {
    condition     = aws_vpc_security_group_egress_rule.task_to_cache.referenced_security_group_id == aws_security_group.cache.id && aws_vpc_security_group_egress_rule.task_to_cache.from_port == 6379 && aws_vpc_security_group_egress_rule.task_to_cache.to_port == 6379
    error_message = "Tasks may reach the journal's port only."
  }

  # -- no group has rules within itself and all say what they are for
  # Rules are resources of their own; one within a group would take the others away.

  assert {
    condition = alltrue([
      for group in [aws_security_group.alb, aws_security_group.task, aws_security_group.cache] :
      length(coalesce(group.ingress, [])) == 0 && length(coalesce(group.egress, [])) == 0 && can(regex("^[A-Za-z0-9 ._:/()#,@+=&;{}!$*-]{20,255}$", group.description))
    ])
    error_message = "A group has a rule within itself, or no description."
  }
  assert {
    condition = alltrue([
      for rule in concat(
        [
          aws_vpc_security_group_ingress_rule.alb_https, aws_vpc_security_group_ingress_rule.alb_http,
          aws_vpc_security_group_ingress_rule.task_from_alb, aws_vpc_security_group_ingress_rule.cache_from_task,
          ], [
          aws_vpc_security_group_egress_rule.alb_to_task, aws_vpc_security_group_egress_rule.task_https,
          aws_vpc_security_group_egress_rule.task_to_cache,
        ], values(aws_vpc_security_group_egress_rule.task_dns)
      ) : can(regex("^[A-Za-z0-9 ._:/()#,@+=&;{}!$*-]{20,255}$", rule.description)) && rule.ip_protocol != "-1"
    ])
    error_message = "A rule does not say what it is for, in characters that AWS takes, or is for every protocol."
  }
}

run "another_port_is_taken_over_by_all_rules" {
  command = plan
  variables {
    bridge_port = 8080
    cache_port  = 6380
  }

  assert {
    condition     = alltrue([for port in [aws_vpc_security_group_ingress_rule.task_from_alb.from_port, aws_vpc_security_group_ingress_rule.task_from_alb.to_port, aws_vpc_security_group_egress_rule.alb_to_task.from_port, aws_vpc_security_group_egress_rule.alb_to_task.to_port] : port == 8080])
    error_message = "bridge_port is not taken over."
  }
  assert {
    condition     = alltrue([for port in [aws_vpc_security_group_ingress_rule.cache_from_task.from_port, aws_vpc_security_group_ingress_rule.cache_from_task.to_port, aws_vpc_security_group_egress_rule.task_to_cache.from_port, aws_vpc_security_group_egress_rule.task_to_cache.to_port] : port == 6380])
    error_message = "cache_port is not taken over."
  }
}

run "a_port_that_only_root_may_use_is_refused" {
  command = plan
  variables {
    bridge_port = 80
  }
  expect_failures = [var.bridge_port]
}
