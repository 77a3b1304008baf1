resource "aws_s3_bucket" "dead_letters" {
  #checkov:skip=CKV_AWS_144:a copy in another region is more than dead letters are worth
  #checkov:skip=CKV2_AWS_62:nobody waits for an object to arrive
  bucket        = "${var.name}-dead-letters-${local.bucket_suffix}"
  force_destroy = !var.deletion_protection
}

resource "aws_s3_bucket_public_access_block" "dead_letters" {
  bucket                  = aws_s3_bucket.dead_letters.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "dead_letters" {
  bucket = aws_s3_bucket.dead_letters.id

  rule {
    object_ownership = "BucketOwnerEnforced" # no ACLs
  }
}

resource "aws_s3_bucket_versioning" "dead_letters" {
  bucket = aws_s3_bucket.dead_letters.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "dead_letters" {
  bucket = aws_s3_bucket.dead_letters.id

  rule {
    bucket_key_enabled = true

    apply_server_side_encryption_by_default {
      sse_algorithm = "aws:kms" # the account's own key for S3: whoever may write to the bucket may use it
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "dead_letters" {
  bucket     = aws_s3_bucket.dead_letters.id
  depends_on = [aws_s3_bucket_versioning.dead_letters] # a rule about versions wants there to be some

  rule {
    id     = "expire"
    status = "Enabled"

    filter {}

    expiration {
      days = var.dead_letter_retention_days
    }

    noncurrent_version_expiration {
      noncurrent_days = var.dead_letter_retention_days
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

resource "aws_s3_bucket_logging" "dead_letters" {
  bucket        = aws_s3_bucket.dead_letters.id
  target_bucket = aws_s3_bucket_policy.logs.bucket # once it may be written to
  target_prefix = "s3/dead-letters/"
}

# That the bridge may write stands in its role.
resource "aws_s3_bucket_policy" "dead_letters" {
  bucket     = aws_s3_bucket.dead_letters.id
  depends_on = [aws_s3_bucket_public_access_block.dead_letters] # S3 refuses two changes at once

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      for sid, condition in local.tls_conditions : {
        Sid       = sid
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:*"
        Resource  = [aws_s3_bucket.dead_letters.arn, "${aws_s3_bucket.dead_letters.arn}/*"]
        Condition = condition
      }
    ]
  })
}
