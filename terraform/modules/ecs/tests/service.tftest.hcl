mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_data "aws_region" {
    defaults = { region = "eu-central-1" }
  }
}

variables {
  name                   = "bridge-test"
  image                  = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/bridge-server:1.4.0"
  private_subnet_ids     = ["subnet-a", "subnet-b"]
  task_security_group_id = "sg-task"
  target_group_arn       = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/bridge-test/1"
  environment            = { PUBLIC_URL = "https://bridge.example.com", HEAL_AUTONOMY = "ask" }
  secrets = {
    ACCESS_TOKEN        = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:bridge-test/ACCESS_TOKEN-a"
    N8N_CALLBACK_SECRET = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:bridge-test/N8N_CALLBACK_SECRET-b"
  }
  redis_url_secret_arn   = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:bridge-test/REDIS_URL-c"
  dead_letter_bucket_arn = "arn:aws:s3:::bridge-test-dead-letters"
  dead_letter_table_arn  = "arn:aws:dynamodb:eu-central-1:123456789012:table/bridge-test-dead-letters"
  log_group_name         = "/ecs/bridge-test"
}

run "the_container_has_the_figures_that_were_agreed" {
  command = plan

  assert {
    condition     = jsondecode(aws_ecs_task_definition.this.container_definitions)[0].stopTimeout == 90
    error_message = "from SIGTERM to SIGKILL it must have 90 s"
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.this.container_definitions)[0].readonlyRootFilesystem
    error_message = "the root file system must be read-only"
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.this.container_definitions)[0].mountPoints == [{ sourceVolume = "data", containerPath = "/data", readOnly = false }]
    error_message = "/data, the image's VOLUME, must be writable, and nothing else"
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.this.container_definitions)[0].healthCheck.command == ["CMD", "python", "-IS", "app/ops/probe.py"]
    error_message = "health must be asked by the image's probe of /healthz"
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.this.container_definitions)[0].user == "10001:10001" && jsondecode(aws_ecs_task_definition.this.container_definitions)[0].linuxParameters.capabilities.drop == ["ALL"]
    error_message = "the container must run as the image's user, without capabilities"
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.this.container_definitions)[0].memory == 4096 && aws_ecs_task_definition.this.memory == "4096"
    error_message = "the container must know the task's memory, or the bridge takes the machine's for its own"
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.this.container_definitions)[0].logConfiguration.options.awslogs-group == "/ecs/bridge-test"
    error_message = "lines must go to the given log group"
  }
}

run "the_environment_holds_settings_and_no_secret" {
  command = plan

  assert {
    condition = { for entry in jsondecode(aws_ecs_task_definition.this.container_definitions)[0].environment : entry.name => entry.value } == {
      AWS_REGION               = "eu-central-1"
      BIND                     = "0.0.0.0:3000"
      GRACEFUL_TIMEOUT_SECONDS = "60"
      HEAL_AUTONOMY            = "ask"
      PUBLIC_URL               = "https://bridge.example.com"
      TMPDIR                   = "/data"
      TRUSTED_PROXY_HOPS       = "1"
    }
    error_message = "what is given and what a bridge behind one load balancer needs, nothing else"
  }
  assert {
    condition     = { for entry in jsondecode(aws_ecs_task_definition.this.container_definitions)[0].secrets : entry.name => entry.valueFrom } == merge(var.secrets, { REDIS_URL = var.redis_url_secret_arn })
    error_message = "secrets and the shared journal must come from Secrets Manager"
  }
  assert {
    condition     = tonumber(one([for entry in jsondecode(aws_ecs_task_definition.this.container_definitions)[0].environment : entry.value if entry.name == "GRACEFUL_TIMEOUT_SECONDS"])) + 30 <= jsondecode(aws_ecs_task_definition.this.container_definitions)[0].stopTimeout
    error_message = "a machine that is busy needs 30 s more than the drain"
  }
}

run "the_service_rolls_forward_whole_or_back" {
  command = plan

  assert {
    condition     = aws_ecs_task_definition.this.skip_destroy
    error_message = "ECS goes back to no revision that was deregistered"
  }
  assert {
    condition     = aws_ecs_service.this.deployment_minimum_healthy_percent == 100 && aws_ecs_service.this.deployment_maximum_percent == 200
    error_message = "all tasks must stay while new ones come up beside them"
  }
  assert {
    condition     = aws_ecs_service.this.deployment_circuit_breaker[0].enable && aws_ecs_service.this.deployment_circuit_breaker[0].rollback
    error_message = "a version that does not come up must be taken back"
  }
  assert {
    condition     = aws_ecs_service.this.launch_type == "FARGATE" && !aws_ecs_service.this.enable_execute_command && !aws_ecs_service.this.network_configuration[0].assign_public_ip
    error_message = "Fargate, no shell inside, no public address"
  }
  assert {
    condition     = one(aws_ecs_service.this.load_balancer).container_port == 3000
    error_message = "the load balancer must reach the bridge's port"
  }
  assert {
    condition     = one(aws_ecs_cluster.this.setting).name == "containerInsights" && one(aws_ecs_cluster.this.setting).value == "enabled"
    error_message = "the alarm on missing tasks needs Container Insights"
  }
}

run "it_scales_from_one_to_three_tasks_at_70_percent" {
  command = plan

  assert {
    condition     = aws_appautoscaling_target.this.min_capacity == 1 && aws_appautoscaling_target.this.max_capacity == 3
    error_message = "one to three tasks"
  }
  assert {
    condition     = aws_appautoscaling_policy.cpu.target_tracking_scaling_policy_configuration[0].target_value == 70 && aws_appautoscaling_policy.cpu.target_tracking_scaling_policy_configuration[0].predefined_metric_specification[0].predefined_metric_type == "ECSServiceAverageCPUUtilization"
    error_message = "the CPU must be held at 70 %"
  }
  assert {
    condition     = aws_appautoscaling_policy.cpu.target_tracking_scaling_policy_configuration[0].scale_in_cooldown == 300
    error_message = "tasks must go 300 s apart"
  }
}

run "the_roles_may_do_what_they_must_and_no_more" {
  command = plan

  assert {
    condition = { for statement in jsondecode(aws_iam_role_policy.task.policy).Statement : join(",", statement.Action) => statement.Resource } == {
      "s3:PutObject"             = ["arn:aws:s3:::bridge-test-dead-letters/*"]
      "dynamodb:PutItem"         = ["arn:aws:dynamodb:eu-central-1:123456789012:table/bridge-test-dead-letters"]
      "ecs:UpdateTaskProtection" = ["arn:aws:ecs:eu-central-1:123456789012:task/bridge-test/*"]
    }
    error_message = "the bridge may put dead letters and protect its own cluster's tasks"
  }
  assert {
    condition = { for statement in jsondecode(aws_iam_role_policy.execution.policy).Statement : join(",", statement.Action) => statement.Resource } == {
      "ecr:GetAuthorizationToken"                                                    = ["*"]
      "ecr:BatchCheckLayerAvailability,ecr:BatchGetImage,ecr:GetDownloadUrlForLayer" = ["arn:aws:ecr:eu-central-1:123456789012:repository/bridge-server"]
      "logs:CreateLogStream,logs:PutLogEvents"                                       = ["arn:aws:logs:eu-central-1:123456789012:log-group:/ecs/bridge-test:*"]
      "secretsmanager:GetSecretValue"                                                = [var.secrets.ACCESS_TOKEN, var.secrets.N8N_CALLBACK_SECRET, var.redis_url_secret_arn]
    }
    error_message = "ECS may pull this image, write this log group and read these secrets"
  }
  assert {
    condition     = alltrue([for role in [aws_iam_role.task, aws_iam_role.execution] : jsondecode(role.assume_role_policy).Statement[0].Condition.StringEquals["aws:SourceAccount"] == "123456789012"])
    error_message = "only tasks of this account may take a role"
  }
}

run "an_image_of_another_registry_is_pulled_without_ecr" {
  command = plan
  variables {
    image = "registry.example/bridge-server@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  }

  assert {
    condition     = !strcontains(aws_iam_role_policy.execution.policy, "ecr:")
    error_message = "no permission in ECR is needed"
  }
}

run "without_the_shared_journal_nothing_is_planned" {
  command = plan
  variables {
    redis_url_secret_arn = ""
  }
  expect_failures = [var.redis_url_secret_arn]
}

run "a_secret_in_the_environment_is_refused" {
  command = plan
  variables {
    environment = { PUBLIC_URL = "https://bridge.example.com", N8N_API_KEY = "0123456789abcdef" }
  }
  expect_failures = [var.environment]
}

run "another_journal_in_the_environment_is_refused" {
  command = plan
  variables {
    environment = { PUBLIC_URL = "https://bridge.example.com", REDIS_URL = "off" }
  }
  expect_failures = [var.environment]
}

run "what_the_module_sets_itself_is_refused" {
  command = plan
  variables {
    environment = { PUBLIC_URL = "https://bridge.example.com", TRUSTED_PROXY_HOPS = "0" }
  }
  expect_failures = [var.environment]
}

run "a_public_address_without_https_is_refused" {
  command = plan
  variables {
    environment = { PUBLIC_URL = "http://bridge.example.com" }
  }
  expect_failures = [var.environment]
}

run "a_bridge_that_nobody_could_use_is_refused" {
  command = plan
  variables {
    secrets = { ACCESS_TOKEN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:bridge-test/ACCESS_TOKEN-a" }
  }
  expect_failures = [var.secrets]
}

run "a_secrets_value_for_its_arn_is_refused" {
  command = plan
  variables {
    secrets = { ACCESS_TOKEN = "0123456789abcdef0123456789abcdef", N8N_CALLBACK_SECRET = "0123456789abcdef0123456789abcdef" }
  }
  expect_failures = [var.secrets]
}

run "an_image_without_a_version_is_refused" {
  command = plan
  variables {
    image = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/bridge-server:latest"
  }
  expect_failures = [var.image]
}

run "a_size_that_fargate_does_not_have_is_refused" {
  command = plan
  variables {
    cpu    = 512
    memory = 8192
  }
  expect_failures = [var.memory]
}

run "a_step_that_fargate_does_not_have_is_refused" {
  command = plan
  variables {
    cpu    = 8192
    memory = 17408
  }
  expect_failures = [var.memory]
}
