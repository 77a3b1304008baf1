data "aws_caller_identity" "current" {}
data "aws_region" "current" {}
data "aws_partition" "current" {}

locals {
  account_id = data.aws_caller_identity.current.account_id
  region     = data.aws_region.current.region
  partition  = data.aws_partition.current.partition

  # All buckets of the world share their names: with the account and the region in it, a name is ours.
  bucket_suffix = "${local.account_id}-${local.region}"

  # Nobody, whatever else allows it, comes without TLS 1.2.
  tls_conditions = {
    TlsOnly  = { Bool = { "aws:SecureTransport" = "false" } }
    NoOldTls = { NumericLessThan = { "s3:TlsVersion" = "1.2" } }
  }
}

resource "aws_dynamodb_table" "dead_letters" {
  #checkov:skip=CKV_AWS_119:encrypted with the account's own key for DynamoDB; a key of ours would be one more to guard
  name                        = "${var.name}-dead-letters"
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = "id"
  deletion_protection_enabled = var.deletion_protection

  attribute {
    name = "id"
    type = "S"
  }

  ttl {
    attribute_name = "expiresAt"
    enabled        = true
  }

  point_in_time_recovery {
    enabled = true
  }

  server_side_encryption {
    enabled = true
  }
}
