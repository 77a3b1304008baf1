mock_provider "aws" {
  mock_resource "aws_memorydb_cluster" {
    defaults = { cluster_endpoint = [{ address = "clustercfg.bridge-test.memorydb.eu-central-1.amazonaws.com", port = 6379 }] }
  }
}

mock_provider "random" {}

variables {
  name                    = "bridge-test"
  private_subnet_ids      = ["subnet-a", "subnet-b"]
  cache_security_group_id = "sg-cache"
}

run "the_journal_is_durable_encrypted_and_closed" {
  command = plan

  assert {
    condition     = aws_memorydb_cluster.this.engine == "valkey" && aws_memorydb_cluster.this.tls_enabled
    error_message = "MemoryDB for Valkey, by TLS only"
  }
  assert {
    condition     = aws_memorydb_cluster.this.acl_name == "bridge-test" && aws_memorydb_acl.this.user_names == toset(["bridge-test-bridge"])
    error_message = "only the bridge's user may come in; open-access has nobody to ask for a password"
  }
  assert {
    condition     = aws_memorydb_user.this.authentication_mode[0].type == "password" && aws_memorydb_user.this.access_string == "on ~{bridge} ~{bridge}:* resetchannels &{bridge}:wake +@all"
    error_message = "a password, and the journal's keys and channel only"
  }
  assert {
    condition     = { for parameter in aws_memorydb_parameter_group.this.parameter : parameter.name => parameter.value } == { maxmemory-policy = "noeviction" }
    error_message = "a full server must refuse, not forget"
  }
  assert {
    condition     = aws_memorydb_cluster.this.num_shards == 1 && aws_memorydb_cluster.this.num_replicas_per_shard == 1
    error_message = "one shard (all keys have one slot) and a node to take over"
  }
  assert {
    condition     = aws_memorydb_cluster.this.snapshot_retention_limit == 7 && aws_memorydb_cluster.this.final_snapshot_name == "bridge-test-final"
    error_message = "snapshots must be kept for a week, and one at the end"
  }
  assert {
    condition     = aws_memorydb_cluster.this.security_group_ids == toset(["sg-cache"]) && aws_memorydb_subnet_group.this.subnet_ids == toset(["subnet-a", "subnet-b"])
    error_message = "in the given group and subnets"
  }
  assert {
    condition     = random_password.this["1"].length == 64 && !random_password.this["1"].special
    error_message = "a long password that may stand in an address"
  }
}

run "the_secret_holds_an_address_with_tls_user_and_password" {
  command = apply

  assert {
    condition     = nonsensitive(aws_secretsmanager_secret_version.redis_url.secret_string) == nonsensitive("rediss://bridge-test-bridge:${random_password.this["1"].result}@clustercfg.bridge-test.memorydb.eu-central-1.amazonaws.com:6379/0")
    error_message = "REDIS_URL must be what the bridge connects with"
  }
  assert {
    condition     = output.endpoint == "clustercfg.bridge-test.memorydb.eu-central-1.amazonaws.com" && output.port == 6379
    error_message = "the endpoint must be given"
  }
}

run "while_a_password_is_changed_both_are_taken_and_the_new_one_is_told" {
  command = apply
  variables {
    password_versions = [1, 2]
  }

  assert {
    condition     = nonsensitive(toset(aws_memorydb_user.this.authentication_mode[0].passwords)) == nonsensitive(toset([random_password.this["1"].result, random_password.this["2"].result]))
    error_message = "tasks that run have the old password, new ones the new"
  }
  assert {
    condition     = strcontains(nonsensitive(aws_secretsmanager_secret_version.redis_url.secret_string), nonsensitive(":${random_password.this["2"].result}@"))
    error_message = "the secret must have the last one"
  }
}

run "without_snapshots_none_is_made_at_the_end" {
  command = plan
  variables {
    replicas                = 0
    snapshot_retention_days = 0
  }

  assert {
    condition     = aws_memorydb_cluster.this.final_snapshot_name == null && aws_memorydb_cluster.this.num_replicas_per_shard == 0
    error_message = "a stack to throw away leaves nothing behind"
  }
}

run "a_third_password_is_refused" {
  command = plan
  variables {
    password_versions = [1, 2, 3]
  }
  expect_failures = [var.password_versions]
}

run "one_zone_alone_is_refused" {
  command = plan
  variables {
    private_subnet_ids = ["subnet-a"]
  }
  expect_failures = [var.private_subnet_ids]
}
