mock_provider "aws" {
  # The real provider checks the form of ARNs.
  mock_resource "aws_lb" {
    override_during = plan
    defaults        = { arn = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/bridge-test/0123456789abcdef" }
  }
  mock_resource "aws_lb_target_group" {
    override_during = plan
    defaults        = { arn = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/bridge-test/0123456789abcdef" }
  }
  mock_resource "aws_lb_listener" {
    override_during = plan
    defaults        = { arn = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:listener/app/bridge-test/0123456789abcdef/0123456789abcdef" }
  }
}

variables {
  name              = "bridge-test"
  vpc_id            = "vpc-0123456789abcdef0"
  public_subnet_ids = ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"]
  security_group_id = "sg-0123456789abcdef0"
  certificate_arn   = "arn:aws:acm:eu-central-1:123456789012:certificate/00000000-0000-0000-0000-000000000000"
  log_bucket_name   = "bridge-test-logs-123456789012-eu-central-1"
}

run "https_only_with_the_timeouts_that_the_bridge_counts_on" {
  command = plan

  # -- https is served with tls 1 2 and 1 3 only

  assert {
    condition     = aws_lb_listener.https.protocol == "HTTPS" && aws_lb_listener.https.port == 443 && aws_lb_listener.https.certificate_arn == var.certificate_arn
    error_message = "443 must speak HTTPS with the certificate given."
  }
  assert {
    condition     = startswith(aws_lb_listener.https.ssl_policy, "ELBSecurityPolicy-TLS13-1-2-Res-")
    error_message = "TLS 1.2 and 1.3 only, and no ciphers of old."
  }
  assert {
    condition     = aws_lb_listener.https.default_action[0].type == "forward"
    error_message = "HTTPS goes on to the bridge."
  }

  # -- http is redirected and nothing else

  assert {
    condition     = aws_lb_listener.http.port == 80 && aws_lb_listener.http.default_action[0].type == "redirect"
    error_message = "80 must redirect."
  }
  assert {
    condition     = aws_lb_listener.http.default_action[0].redirect[0].protocol == "HTTPS" && aws_lb_listener.http.default_action[0].redirect[0].port == "443" && aws_lb_listener.http.default_action[0].redirect[0].status_code == "HTTP_301"
    error_message = "80 must redirect to HTTPS, for good."
  }

  # -- metrics are refused before anything else

  assert {
    condition     = aws_lb_listener_rule.refuse_metrics.priority == 1 && aws_lb_listener_rule.refuse_metrics.listener_arn == aws_lb_listener.https.arn
    error_message = "The refusal must be the first rule of the HTTPS listener."
  }
  assert {
    condition     = one(one(aws_lb_listener_rule.refuse_metrics.condition).path_pattern).values == toset(["/metrics", "/metrics/*"])
    error_message = "It must be for /metrics."
  }
  assert {
    condition     = aws_lb_listener_rule.refuse_metrics.action[0].type == "fixed-response" && aws_lb_listener_rule.refuse_metrics.action[0].fixed_response[0].status_code == "404"
    error_message = "The load balancer itself must answer, 404."
  }

  # -- timeouts are those that the bridge counts on

  assert {
    condition     = aws_lb.this.idle_timeout == 120
    error_message = "The idle timeout must be 120 s."
  }
  assert {
    condition     = tonumber(regex("(?m)^keepalive = ([0-9]+)", file("../../../gunicorn.conf.py"))[0]) > aws_lb.this.idle_timeout
    error_message = "gunicorn's keepalive must be longer than the idle timeout, or requests meet closed connections."
  }
  assert {
    condition     = tonumber(aws_lb_target_group.this.deregistration_delay) == 60
    error_message = "The deregistration delay must be 60 s."
  }

  # -- odd headers are dropped and requests are logged

  assert {
    condition     = aws_lb.this.drop_invalid_header_fields && aws_lb.this.desync_mitigation_mode == "defensive"
    error_message = "Invalid headers must be dropped."
  }
  assert {
    condition     = aws_lb.this.xff_header_processing_mode == "append"
    error_message = "The client's address must be the first from the right."
  }
  assert {
    condition     = aws_lb.this.access_logs[0].enabled && aws_lb.this.access_logs[0].bucket == var.log_bucket_name && aws_lb.this.access_logs[0].prefix == "alb"
    error_message = "Access logs must go to the bucket, under the prefix that its policy allows."
  }
  assert {
    condition     = !aws_lb.this.internal && aws_lb.this.security_groups == toset([var.security_group_id])
    error_message = "It must be public, with the group given."
  }

  # -- health is liveness

  assert {
    condition     = aws_lb_target_group.this.health_check[0].path == "/healthz" && aws_lb_target_group.this.health_check[0].matcher == "200"
    error_message = "Health must be asked of /healthz."
  }
  assert {
    condition     = aws_lb_target_group.this.target_type == "ip" && aws_lb_target_group.this.port == 3000
    error_message = "Targets are tasks of Fargate on the bridge's port."
  }

  # -- deleting is refused unless that is taken back

  assert {
    condition     = aws_lb.this.enable_deletion_protection
    error_message = "Deletion protection must be on by default."
  }
}

run "deleting_is_allowed_where_it_is_asked_for" {
  command = plan
  variables {
    deletion_protection = false
  }

  assert {
    condition     = !aws_lb.this.enable_deletion_protection
    error_message = "deletion_protection is not taken over."
  }
}

run "one_subnet_no_certificate_and_a_name_too_long_are_refused" {
  command = plan
  variables {
    public_subnet_ids = ["subnet-0123456789abcdef0"]
    certificate_arn   = ""
    name              = "a-name-that-is-too-long"
  }
  expect_failures = [var.public_subnet_ids, var.certificate_arn, var.name]
}
