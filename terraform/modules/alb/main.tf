locals {
  # WebSockets are pinged every 30 s (WS_PING_INTERVAL_SECONDS). The bridge's own keep-alive (gunicorn.conf.py) is
  # longer, or a request could meet a connection that the bridge has just closed: a 502 of nobody's making.
  idle_timeout_seconds = 120

  # Requests in flight get this long before a task is told to stop, and sockets move on at its TERM.
  deregistration_delay_seconds = 60
}

resource "aws_lb" "this" {
  #checkov:skip=CKV2_AWS_28:the module waf stands in front of it, which a scan of single modules does not see
  #checkov:skip=CKV_AWS_150:deletion_protection is true but where a stack is meant to go again
  name               = var.name
  load_balancer_type = "application"
  internal           = false
  subnets            = var.public_subnet_ids
  security_groups    = [var.security_group_id]

  idle_timeout               = local.idle_timeout_seconds
  drop_invalid_header_fields = true
  desync_mitigation_mode     = "defensive"
  enable_deletion_protection = var.deletion_protection

  # The bridge counts the client's address from the right (TRUSTED_PROXY_HOPS=1), so what a client claims stays left.
  xff_header_processing_mode = "append"

  access_logs {
    bucket  = var.log_bucket_name
    prefix  = "alb"
    enabled = true
  }
}

resource "aws_lb_target_group" "this" {
  #checkov:skip=CKV_AWS_378:TLS ends at the load balancer; the tasks' group lets nobody else in
  name                 = var.name
  vpc_id               = var.vpc_id
  target_type          = "ip"
  protocol             = "HTTP"
  port                 = var.bridge_port
  deregistration_delay = local.deregistration_delay_seconds

  # A WebSocket is a request that lasts: sockets go where the fewest are. Any task serves any session, so no stickiness.
  load_balancing_algorithm_type = "least_outstanding_requests"

  # Liveness. Readiness also fails while the journal is away, and replacing tasks would not bring that back.
  health_check {
    path                = "/healthz"
    matcher             = "200"
    interval            = 15
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 3
  }
}

resource "aws_lb_listener" "https" {
  load_balancer_arn = aws_lb.this.arn
  protocol          = "HTTPS"
  port              = 443
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-Res-2021-06" # TLS 1.3 and 1.2, forward secrecy and AEAD only
  certificate_arn   = var.certificate_arn

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.this.arn
  }
}

resource "aws_lb_listener" "http" {
  load_balancer_arn = aws_lb.this.arn
  protocol          = "HTTP"
  port              = 80

  default_action {
    type = "redirect"

    redirect {
      protocol    = "HTTPS"
      port        = "443"
      status_code = "HTTP_301"
    }
  }
}

# Metrics are for the inside. The bridge asks for a token as well, and the WAF refuses what this pattern does not see.
resource "aws_lb_listener_rule" "refuse_metrics" {
  listener_arn = aws_lb_listener.https.arn
  priority     = 1

  condition {
    path_pattern {
      values = ["/metrics", "/metrics/*"]
    }
  }

  action {
    type = "fixed-response"

    fixed_response {
      status_code  = "404"
      content_type = "text/plain"
      message_body = "Not found\n"
    }
  }
}
