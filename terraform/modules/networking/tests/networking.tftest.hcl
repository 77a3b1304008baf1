mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { region = "eu-central-1" }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  # The real provider checks the form of ARNs.
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:123456789012:log-group:/vpc/bridge-test/flow" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/bridge-test-flow-logs" }
  }
}

variables {
  name               = "bridge-test"
  availability_zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
}

run "a_network_over_three_zones" {
  command = apply # with made-up ids: a plan knows none

  # -- each zone has a public and a private subnet of its own

  assert {
    condition     = toset(keys(aws_subnet.public)) == toset(var.availability_zones) && toset(keys(aws_subnet.private)) == toset(var.availability_zones)
    error_message = "A zone lacks a subnet."
  }
  assert {
    condition     = alltrue([for zone, subnet in aws_subnet.public : subnet.availability_zone == zone]) && alltrue([for zone, subnet in aws_subnet.private : subnet.availability_zone == zone])
    error_message = "A subnet is not in its zone."
  }
  assert {
    condition     = length(distinct([for subnet in concat(values(aws_subnet.public), values(aws_subnet.private)) : subnet.cidr_block])) == 6
    error_message = "Subnets share addresses."
  }
  assert {
    condition     = [for subnet in values(aws_subnet.private) : subnet.cidr_block] == ["10.20.0.0/20", "10.20.16.0/20", "10.20.32.0/20"]
    error_message = "Private subnets are not where they were: a change would replace all of them."
  }
  assert {
    condition     = [for subnet in values(aws_subnet.public) : subnet.cidr_block] == ["10.20.240.0/24", "10.20.241.0/24", "10.20.242.0/24"]
    error_message = "Public subnets are not where they were: a change would replace all of them."
  }
  assert {
    condition     = !anytrue([for subnet in values(aws_subnet.public) : subnet.map_public_ip_on_launch])
    error_message = "What is started in a public subnet must not be on the internet by itself."
  }

  # -- the way out of each zone is its own

  assert {
    condition     = toset(keys(aws_nat_gateway.this)) == toset(var.availability_zones)
    error_message = "Each zone needs a NAT gateway."
  }
  assert {
    condition = alltrue([
      for zone in var.availability_zones : aws_route.private_internet[zone].destination_cidr_block == "0.0.0.0/0"
      && aws_route.private_internet[zone].nat_gateway_id == aws_nat_gateway.this[zone].id
      && aws_route.private_internet[zone].route_table_id == aws_route_table.private[zone].id
      && aws_route_table_association.private[zone].route_table_id == aws_route_table.private[zone].id
      && aws_route_table_association.private[zone].subnet_id == aws_subnet.private[zone].id
      && aws_nat_gateway.this[zone].subnet_id == aws_subnet.public[zone].id
    ])
    error_message = "A private subnet's way out leads through another zone, or nowhere."
  }
  assert {
    condition = aws_route.public_internet.gateway_id == aws_internet_gateway.this.id && alltrue([
      for zone in var.availability_zones : aws_route_table_association.public[zone].subnet_id == aws_subnet.public[zone].id
      && aws_route_table_association.public[zone].route_table_id == aws_route_table.public.id
    ])
    error_message = "A public subnet has no way to the internet."
  }

  # -- private subnets reach s3 and dynamodb without nat

  assert {
    condition     = { for key, endpoint in aws_vpc_endpoint.gateway : key => endpoint.service_name } == { s3 = "com.amazonaws.eu-central-1.s3", dynamodb = "com.amazonaws.eu-central-1.dynamodb" }
    error_message = "An endpoint is missing."
  }
  assert {
    condition     = alltrue([for endpoint in aws_vpc_endpoint.gateway : endpoint.vpc_endpoint_type == "Gateway" && endpoint.route_table_ids == toset([for table in aws_route_table.private : table.id])])
    error_message = "An endpoint is not in the private subnets' route tables."
  }
  assert {
    condition     = output.private_subnet_ids == [for zone in var.availability_zones : aws_subnet.private[zone].id] && output.public_subnet_ids == [for zone in var.availability_zones : aws_subnet.public[zone].id]
    error_message = "The outputs are not the subnets in the order of the zones."
  }

  # -- flow logs tell of all traffic and are kept 30 days

  assert {
    condition     = aws_flow_log.this.traffic_type == "ALL" && aws_flow_log.this.vpc_id == aws_vpc.this.id
    error_message = "The flow log does not see all of the VPC."
  }
  assert {
    condition     = aws_cloudwatch_log_group.flow.retention_in_days == 30
    error_message = "Flow logs are to be kept 30 days."
  }
  assert {
    condition     = jsondecode(aws_iam_role.flow.assume_role_policy).Statement[0].Condition.StringEquals["aws:SourceAccount"] == "123456789012"
    error_message = "The role must be for this account's flow logs only."
  }
  assert {
    condition     = alltrue([for statement in jsondecode(aws_iam_role_policy.flow.policy).Statement : statement.Resource == "${aws_cloudwatch_log_group.flow.arn}:*" || statement.Action == "logs:DescribeLogGroups"])
    error_message = "The role may write to more than the flow logs' group."
  }

  # -- the default group lets nothing through

  assert {
    condition     = length(aws_default_security_group.this.ingress) == 0 && length(aws_default_security_group.this.egress) == 0
    error_message = "The default group must have no rule."
  }
}

run "one_nat_gateway_serves_all_zones_where_that_is_asked_for" {
  command = plan

  variables {
    single_nat_gateway = true
  }

  assert {
    condition     = keys(aws_nat_gateway.this) == ["eu-central-1a"] && length(aws_route.private_internet) == 3
    error_message = "One gateway, and a route to it from each zone, were asked for."
  }
}

run "one_zone_and_a_network_too_small_for_its_subnets_are_refused" {
  command = plan
  variables {
    availability_zones = ["eu-central-1a"]
    cidr_block         = "10.20.0.0/20"
  }
  expect_failures = [var.availability_zones, var.cidr_block]
}

run "a_zone_named_twice_is_refused" {
  command = plan
  variables {
    availability_zones = ["eu-central-1a", "eu-central-1a"]
  }
  expect_failures = [var.availability_zones]
}
