# Access logs of the load balancer, and of the bucket of dead letters.

resource "aws_s3_bucket" "logs" {
  #checkov:skip=CKV_AWS_145:a load balancer can only write with the key of S3
  #checkov:skip=CKV_AWS_144:a copy in another region is more than access logs are worth
  #checkov:skip=CKV2_AWS_62:nobody waits for an object to arrive
  #checkov:skip=CKV_AWS_18:a log of who wrote logs has no end
  bucket        = "${var.name}-logs-${local.bucket_suffix}"
  force_destroy = !var.deletion_protection
}

resource "aws_s3_bucket_public_access_block" "logs" {
  bucket                  = aws_s3_bucket.logs.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "logs" {
  bucket = aws_s3_bucket.logs.id

  rule {
    object_ownership = "BucketOwnerEnforced" # no ACLs
  }
}

resource "aws_s3_bucket_versioning" "logs" {
  bucket = aws_s3_bucket.logs.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "logs" {
  bucket = aws_s3_bucket.logs.id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "logs" {
  bucket     = aws_s3_bucket.logs.id
  depends_on = [aws_s3_bucket_versioning.logs] # a rule about versions wants there to be some

  rule {
    id     = "expire"
    status = "Enabled"

    filter {}

    expiration {
      days = var.access_log_retention_days
    }

    noncurrent_version_expiration {
      noncurrent_days = var.access_log_retention_days
    }

    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }

  rule {
    id     = "tidy-delete-markers"
    status = "Enabled"

    filter {}

    expiration {
      expired_object_delete_marker = true
    }
  }
}

resource "aws_s3_bucket_policy" "logs" {
  bucket     = aws_s3_bucket.logs.id
  depends_on = [aws_s3_bucket_public_access_block.logs] # S3 refuses two changes at once

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [
        for sid, condition in local.tls_conditions : {
          Sid       = sid
          Effect    = "Deny"
          Principal = "*"
          Action    = "s3:*"
          Resource  = [aws_s3_bucket.logs.arn, "${aws_s3_bucket.logs.arn}/*"]
          Condition = condition
        }
      ],
      [
        {
          Sid       = "LoadBalancerLogs"
          Effect    = "Allow"
          Principal = { Service = "logdelivery.elasticloadbalancing.amazonaws.com" }
          Action    = "s3:PutObject"
          Resource  = "${aws_s3_bucket.logs.arn}/alb/AWSLogs/${local.account_id}/*"
          Condition = {
            ArnLike = {
              "aws:SourceArn" = "arn:${local.partition}:elasticloadbalancing:${local.region}:${local.account_id}:loadbalancer/*"
            }
          }
        },
        {
          Sid       = "DeadLetterBucketLogs"
          Effect    = "Allow"
          Principal = { Service = "logging.s3.amazonaws.com" }
          Action    = "s3:PutObject"
          Resource  = "${aws_s3_bucket.logs.arn}/s3/dead-letters/*"
          Condition = {
            ArnLike      = { "aws:SourceArn" = aws_s3_bucket.dead_letters.arn }
            StringEquals = { "aws:SourceAccount" = local.account_id }
          }
        },
      ],
    )
  })
}
