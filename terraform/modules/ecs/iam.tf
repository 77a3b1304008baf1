# Two roles: "execution" is what ECS needs to start a task, "task" is what the bridge itself may do.

locals {
  account_id = data.aws_caller_identity.current.account_id
  partition  = data.aws_partition.current.partition
  region     = data.aws_region.current.region

  log_group_arn = "arn:${local.partition}:logs:${local.region}:${local.account_id}:log-group:${var.log_group_name}"
  task_arns     = "arn:${local.partition}:ecs:${local.region}:${local.account_id}:task/${aws_ecs_cluster.this.name}/*"

  # Of an image in ECR: account, region, name. Another registry's image is pulled without a permission of AWS.
  ecr = try(regex("^([0-9]{12})\\.dkr\\.ecr\\.([a-z0-9-]+)\\.amazonaws\\.com(?:\\.cn)?/([^:@]+)", var.image), null)

  pull_statements = local.ecr == null ? [] : [
    {
      Sid      = "LogInToRegistry"
      Effect   = "Allow"
      Action   = ["ecr:GetAuthorizationToken"]
      Resource = ["*"] # the action knows no resource
    },
    {
      Sid      = "PullImage"
      Effect   = "Allow"
      Action   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
      Resource = ["arn:${local.partition}:ecr:${local.ecr[1]}:${local.ecr[0]}:repository/${local.ecr[2]}"]
    },
  ]

  # Only for tasks of this account: nobody else's service can borrow the roles.
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
      Condition = {
        StringEquals = { "aws:SourceAccount" = local.account_id }
        ArnLike      = { "aws:SourceArn" = "arn:${local.partition}:ecs:${local.region}:${local.account_id}:*" }
      }
    }]
  })
}

resource "aws_iam_role" "execution" {
  name               = "${var.name}-execution"
  assume_role_policy = local.assume_role_policy
}

resource "aws_iam_role_policy" "execution" {
  name = "start"
  role = aws_iam_role.execution.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(local.pull_statements, [
      {
        Sid      = "WriteLogs"
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = ["${local.log_group_arn}:*"]
      },
      {
        Sid      = "ReadSecrets"
        Effect   = "Allow"
        Action   = ["secretsmanager:GetSecretValue"]
        Resource = values(local.secrets)
      },
    ])
  })
}

resource "aws_iam_role" "task" {
  name               = "${var.name}-task"
  assume_role_policy = local.assume_role_policy
}

resource "aws_iam_role_policy" "task" {
  name = "bridge"
  role = aws_iam_role.task.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "KeepDeadLetterObjects"
        Effect   = "Allow"
        Action   = ["s3:PutObject"]
        Resource = ["${var.dead_letter_bucket_arn}/*"]
      },
      {
        Sid      = "KeepDeadLetterItems"
        Effect   = "Allow"
        Action   = ["dynamodb:PutItem"]
        Resource = [var.dead_letter_table_arn]
      },
      {
        # $ECS_AGENT_URI/task-protection/v1/state acts with the task's own role.
        Sid      = "ProtectWhileRepairing"
        Effect   = "Allow"
        Action   = ["ecs:UpdateTaskProtection"]
        Resource = [local.task_arns]
      },
    ]
  })
}
