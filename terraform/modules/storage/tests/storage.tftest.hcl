mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_region" {
    defaults = { region = "eu-central-1" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
}

# What a plan knows of the buckets, so that it tells which one is meant.
override_resource {
  target          = aws_s3_bucket.dead_letters
  override_during = plan
  values          = { id = "dead-letters", arn = "arn:aws:s3:::dead-letters" }
}

override_resource {
  target          = aws_s3_bucket.logs
  override_during = plan
  values          = { id = "logs", arn = "arn:aws:s3:::logs" }
}

variables {
  name = "bridge-test"
}

run "what_is_kept_is_private_encrypted_and_forgotten_in_time" {
  command = plan

  # -- all public access is blocked

  assert {
    condition = alltrue([
      for block in [aws_s3_bucket_public_access_block.dead_letters, aws_s3_bucket_public_access_block.logs] :
      block.block_public_acls && block.block_public_policy && block.ignore_public_acls && block.restrict_public_buckets
    ])
    error_message = "A bucket could be made public."
  }
  assert {
    condition = alltrue([
      for controls in [aws_s3_bucket_ownership_controls.dead_letters, aws_s3_bucket_ownership_controls.logs] :
      controls.rule[0].object_ownership == "BucketOwnerEnforced"
    ])
    error_message = "A bucket takes ACLs."
  }

  # -- both buckets are versioned and encrypted

  assert {
    condition     = aws_s3_bucket_versioning.dead_letters.versioning_configuration[0].status == "Enabled" && aws_s3_bucket_versioning.logs.versioning_configuration[0].status == "Enabled"
    error_message = "A bucket forgets what was replaced."
  }
  assert {
    condition     = one(aws_s3_bucket_server_side_encryption_configuration.dead_letters.rule).apply_server_side_encryption_by_default[0].sse_algorithm == "aws:kms"
    error_message = "Dead letters must be encrypted with a key of KMS."
  }
  assert {
    condition     = one(aws_s3_bucket_server_side_encryption_configuration.logs.rule).apply_server_side_encryption_by_default[0].sse_algorithm == "AES256"
    error_message = "The load balancer can write with AES256 only."
  }

  # -- dead letters are kept 30 days

  assert {
    condition     = aws_s3_bucket_lifecycle_configuration.dead_letters.rule[0].status == "Enabled" && aws_s3_bucket_lifecycle_configuration.dead_letters.rule[0].expiration[0].days == 30
    error_message = "Dead letters must be kept 30 days."
  }
  assert {
    condition     = aws_s3_bucket_lifecycle_configuration.dead_letters.rule[0].noncurrent_version_expiration[0].noncurrent_days == 30
    error_message = "Versions must go after 30 days, too."
  }
  assert {
    condition     = aws_s3_bucket_lifecycle_configuration.dead_letters.rule[0].abort_incomplete_multipart_upload[0].days_after_initiation == 1
    error_message = "Uploads that broke off must go."
  }
  assert {
    condition     = aws_s3_bucket_lifecycle_configuration.logs.rule[0].status == "Enabled" && aws_s3_bucket_lifecycle_configuration.logs.rule[0].expiration[0].days == 90
    error_message = "Access logs must be kept 90 days."
  }

  # -- nobody comes without tls

  assert {
    condition = alltrue([
      for policy in [aws_s3_bucket_policy.dead_letters, aws_s3_bucket_policy.logs] : length([
        for statement in jsondecode(policy.policy).Statement : statement
        if statement.Effect == "Deny" && statement.Principal == "*" && statement.Action == "s3:*" && try(statement.Condition.Bool["aws:SecureTransport"], "") == "false"
      ]) == 1
    ])
    error_message = "A bucket answers without TLS."
  }
  assert {
    condition = alltrue([
      for policy in [aws_s3_bucket_policy.dead_letters, aws_s3_bucket_policy.logs] : length([
        for statement in jsondecode(policy.policy).Statement : statement
        if statement.Effect == "Deny" && try(statement.Condition.NumericLessThan["s3:TlsVersion"], "") == "1.2"
      ]) == 1
    ])
    error_message = "A bucket answers TLS older than 1.2."
  }
  assert {
    condition     = jsondecode(aws_s3_bucket_policy.dead_letters.policy).Statement[0].Resource == [aws_s3_bucket.dead_letters.arn, "${aws_s3_bucket.dead_letters.arn}/*"]
    error_message = "The refusal must be for the bucket and all in it."
  }
  assert {
    condition     = !anytrue([for statement in jsondecode(aws_s3_bucket_policy.dead_letters.policy).Statement : statement.Effect == "Allow"])
    error_message = "The bucket's policy allows somebody something: the bridge's role does."
  }

  # -- only this accounts load balancers and bucket write logs

  assert {
    condition = { for statement in jsondecode(aws_s3_bucket_policy.logs.policy).Statement : statement.Principal.Service => statement.Resource if statement.Effect == "Allow" } == {
      "logdelivery.elasticloadbalancing.amazonaws.com" = "${aws_s3_bucket.logs.arn}/alb/AWSLogs/123456789012/*"
      "logging.s3.amazonaws.com"                       = "${aws_s3_bucket.logs.arn}/s3/dead-letters/*"
    }
    error_message = "Others than the load balancer and the bucket of dead letters may write, or elsewhere."
  }
  assert {
    condition     = one([for statement in jsondecode(aws_s3_bucket_policy.logs.policy).Statement : statement if statement.Sid == "LoadBalancerLogs"]).Condition.ArnLike["aws:SourceArn"] == "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/*"
    error_message = "Load balancers of others may write."
  }
  assert {
    condition     = aws_s3_bucket_logging.dead_letters.target_bucket == aws_s3_bucket.logs.id && aws_s3_bucket_logging.dead_letters.target_prefix == "s3/dead-letters/"
    error_message = "Who reads dead letters is not logged."
  }

  # -- the table forgets by expiresat and can be restored

  assert {
    condition     = aws_dynamodb_table.dead_letters.hash_key == "id" && aws_dynamodb_table.dead_letters.range_key == null && one(aws_dynamodb_table.dead_letters.attribute).type == "S"
    error_message = "The key must be the string id."
  }
  assert {
    condition     = aws_dynamodb_table.dead_letters.ttl[0].enabled && aws_dynamodb_table.dead_letters.ttl[0].attribute_name == "expiresAt"
    error_message = "Items must go by expiresAt."
  }
  assert {
    condition     = aws_dynamodb_table.dead_letters.server_side_encryption[0].enabled && aws_dynamodb_table.dead_letters.point_in_time_recovery[0].enabled
    error_message = "The table must be encrypted with a key of KMS, and restorable."
  }
  assert {
    condition     = aws_dynamodb_table.dead_letters.billing_mode == "PAY_PER_REQUEST"
    error_message = "A flood of dead letters must not meet a capacity."
  }

  # -- deleting is refused unless that is taken back

  assert {
    condition     = aws_dynamodb_table.dead_letters.deletion_protection_enabled && !aws_s3_bucket.dead_letters.force_destroy && !aws_s3_bucket.logs.force_destroy
    error_message = "Protection must be on by default."
  }

  # -- names of buckets are ours

  assert {
    condition     = aws_s3_bucket.dead_letters.bucket == "bridge-test-dead-letters-123456789012-eu-central-1" && aws_s3_bucket.logs.bucket == "bridge-test-logs-123456789012-eu-central-1"
    error_message = "Account and region must be in the names: others have buckets, too."
  }
}

# With a region of the longest name there is.
run "deleting_is_allowed_where_it_is_asked_for_and_the_longest_name_fits_a_bucket" {
  command = plan
  variables {
    name                = "abcdefghijklmnopqrstuv"
    deletion_protection = false
  }
  override_data {
    target = data.aws_region.current
    values = { region = "ap-southeast-1" }
  }

  assert {
    condition     = !aws_dynamodb_table.dead_letters.deletion_protection_enabled && aws_s3_bucket.dead_letters.force_destroy && aws_s3_bucket.logs.force_destroy
    error_message = "deletion_protection is not taken over."
  }
  assert {
    condition     = length(aws_s3_bucket.dead_letters.bucket) <= 63
    error_message = "A bucket's name has 63 characters at most."
  }
}

run "a_longer_name_and_half_a_day_are_refused" {
  command = plan
  variables {
    name                       = "abcdefghijklmnopqrstuvw"
    dead_letter_retention_days = 0.5
  }
  expect_failures = [var.name, var.dead_letter_retention_days]
}
