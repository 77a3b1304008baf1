# The bridge as a Fargate service: cluster, task definition, service, scaling. Its roles are in iam.tf.

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

locals {
  container_name = "bridge"
  port           = 3000
  min_tasks      = 1
  max_tasks      = 3

  # From SIGTERM to SIGKILL. The bridge drains for 60 s; the rest is for a machine that is busy.
  stop_timeout_s     = 90
  graceful_timeout_s = 60

  # One proxy is in front, the load balancer. All that is written goes to the one writable folder; the journal's own
  # file stays unused beside REDIS_URL.
  environment = merge(var.environment, {
    AWS_REGION               = data.aws_region.current.region
    BIND                     = "0.0.0.0:${local.port}"
    GRACEFUL_TIMEOUT_SECONDS = tostring(local.graceful_timeout_s)
    TMPDIR                   = "/data"
    TRUSTED_PROXY_HOPS       = "1"
  })
  secrets = merge(var.secrets, { REDIS_URL = var.redis_url_secret_arn })
}

resource "aws_ecs_cluster" "this" {
  name = var.name

  setting {
    name  = "containerInsights" # the counts of desired and running tasks come from it
    value = "enabled"
  }
}

resource "aws_ecs_task_definition" "this" {
  family                   = var.name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.cpu
  memory                   = var.memory
  execution_role_arn       = aws_iam_role.execution.arn
  task_role_arn            = aws_iam_role.task.arn

  # A revision that another one has followed stays in use: the service can be told to go back to it, by a person or by
  # the circuit breaker, and ECS takes none that was deregistered.
  skip_destroy = true

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = "X86_64"
  }

  # The task's own storage, at the path of the image's VOLUME, whose owner and mode it takes: the bridge's user.
  volume {
    name = "data"
  }

  container_definitions = jsonencode([{
    name      = local.container_name
    image     = var.image
    essential = true
    user      = "10001:10001"

    # Of the container, too: the bridge measures by its cgroup how many turns it can carry.
    cpu    = var.cpu
    memory = var.memory

    readonlyRootFilesystem = true
    mountPoints            = [{ sourceVolume = "data", containerPath = "/data", readOnly = false }]
    linuxParameters        = { capabilities = { drop = ["ALL"] } }

    portMappings = [{ containerPort = local.port, hostPort = local.port, protocol = "tcp" }]
    environment  = [for setting, value in local.environment : { name = setting, value = value }]
    secrets      = [for setting, arn in local.secrets : { name = setting, valueFrom = arn }]

    # The image's own probe of /healthz. A bridge whose journal is away is alive: starting it anew would not help.
    healthCheck = {
      command     = ["CMD", "python", "-IS", "app/ops/probe.py"]
      interval    = 15
      timeout     = 5
      retries     = 3
      startPeriod = 30
    }
    stopTimeout = local.stop_timeout_s

    # Blocking: the bridge never waits for a reader of its lines, and counts those it drops; the driver would lose them
    # without a word.
    logConfiguration = {
      logDriver = "awslogs"
      options = {
        awslogs-group         = var.log_group_name
        awslogs-region        = data.aws_region.current.region
        awslogs-stream-prefix = "bridge"
        mode                  = "blocking"
      }
    }
  }])
}

resource "aws_ecs_service" "this" {
  name            = var.name
  cluster         = aws_ecs_cluster.this.id
  task_definition = aws_ecs_task_definition.this.arn
  desired_count   = local.min_tasks
  launch_type     = "FARGATE"

  enable_execute_command  = false # a shell in the task would read every secret in its environment
  enable_ecs_managed_tags = true
  propagate_tags          = "SERVICE"

  # New tasks come up beside the old ones; a version that does not come up is taken back.
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200
  health_check_grace_period_seconds  = 60

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = var.private_subnet_ids
    security_groups  = [var.task_security_group_id]
    assign_public_ip = false
  }

  load_balancer {
    target_group_arn = var.target_group_arn
    container_name   = local.container_name
    container_port   = local.port
  }

  lifecycle {
    ignore_changes = [desired_count] # scaling's
  }

  # A task that starts before its roles may do anything fails, and counts against the deployment.
  depends_on = [aws_iam_role_policy.execution, aws_iam_role_policy.task]
}

resource "aws_appautoscaling_target" "this" {
  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = "service/${aws_ecs_cluster.this.name}/${aws_ecs_service.this.name}"
  min_capacity       = local.min_tasks
  max_capacity       = local.max_tasks
}

resource "aws_appautoscaling_policy" "cpu" {
  name               = "${var.name}-cpu"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.this.service_namespace
  scalable_dimension = aws_appautoscaling_target.this.scalable_dimension
  resource_id        = aws_appautoscaling_target.this.resource_id

  target_tracking_scaling_policy_configuration {
    target_value       = 70
    scale_in_cooldown  = 300
    scale_out_cooldown = 60

    predefined_metric_specification {
      predefined_metric_type = "ECSServiceAverageCPUUtilization"
    }
  }
}
