mock_provider "aws" {}

variables {
  name = "bridge-test"
  values = {
    ACCESS_TOKEN        = "0f3c9a1e5b7d2468ace013579bdf2468"
    ANTHROPIC_API_KEY   = "sk-ant-api03-0f3c9a1e5b7d2468"
    METRICS_TOKEN       = "1f3c9a1e5b7d2468ace013579bdf2468"
    N8N_API_KEY         = "2f3c9a1e5b7d2468ace013579bdf2468"
    N8N_CALLBACK_SECRET = "3f3c9a1e5b7d2468ace013579bdf2468,4f3c9a1e5b7d2468ace013579bdf2468"
    NOTIFY_SECRET       = "5f3c9a1e5b7d2468ace013579bdf2468"
  }
}

run "each_setting_has_a_secret_of_its_own" {
  command = apply

  assert {
    condition = { for setting, secret in aws_secretsmanager_secret.this : setting => secret.name } == {
      ACCESS_TOKEN        = "bridge-test/ACCESS_TOKEN"
      ANTHROPIC_API_KEY   = "bridge-test/ANTHROPIC_API_KEY"
      METRICS_TOKEN       = "bridge-test/METRICS_TOKEN"
      N8N_API_KEY         = "bridge-test/N8N_API_KEY"
      N8N_CALLBACK_SECRET = "bridge-test/N8N_CALLBACK_SECRET"
      NOTIFY_SECRET       = "bridge-test/NOTIFY_SECRET"
    }
    error_message = "six secrets, each named by its setting"
  }
  assert {
    condition     = output.secret_arns == { for setting, secret in aws_secretsmanager_secret.this : setting => secret.arn }
    error_message = "the ARNs must be given by setting"
  }
  assert {
    condition     = alltrue([for version in aws_secretsmanager_secret_version.this : version.secret_string_wo == null && version.secret_string == null])
    error_message = "no value may be in the state"
  }
}

run "a_raised_version_writes_that_secret_anew" {
  command = plan
  variables {
    versions = { N8N_API_KEY = 2 }
  }

  assert {
    condition     = aws_secretsmanager_secret_version.this["N8N_API_KEY"].secret_string_wo_version == 2 && aws_secretsmanager_secret_version.this["ACCESS_TOKEN"].secret_string_wo_version == 1
    error_message = "only what was raised is written"
  }
}

run "what_is_not_used_needs_no_secret" {
  command = plan
  variables {
    settings = ["ACCESS_TOKEN", "N8N_CALLBACK_SECRET"]
    values = {
      ACCESS_TOKEN        = "0f3c9a1e5b7d2468ace013579bdf2468"
      N8N_CALLBACK_SECRET = "3f3c9a1e5b7d2468ace013579bdf2468"
    }
  }

  assert {
    condition     = keys(aws_secretsmanager_secret.this) == ["ACCESS_TOKEN", "N8N_CALLBACK_SECRET"]
    error_message = "only the named ones are made"
  }
}

run "a_missing_value_is_refused" {
  command = plan
  variables {
    values = { ACCESS_TOKEN = "0f3c9a1e5b7d2468ace013579bdf2468" }
  }
  expect_failures = [var.values]
}

run "change_me_is_refused" {
  command = plan
  variables {
    settings = ["ACCESS_TOKEN"]
    values   = { ACCESS_TOKEN = "CHANGE-ME-0f3c9a1e5b7d2468ace0135" }
  }
  expect_failures = [var.values]
}

run "your_key_here_is_refused" {
  command = plan
  variables {
    settings = ["ANTHROPIC_API_KEY"]
    values   = { ANTHROPIC_API_KEY = "sk-ant-your-api-key-here" }
  }
  expect_failures = [var.values]
}

run "an_ellipsis_is_refused" {
  command = plan
  variables {
    settings = ["ANTHROPIC_API_KEY"]
    values   = { ANTHROPIC_API_KEY = "sk-ant-api03-......" }
  }
  expect_failures = [var.values]
}

run "one_sign_again_and_again_is_refused" {
  command = plan
  variables {
    settings = ["ACCESS_TOKEN"]
    values   = { ACCESS_TOKEN = "00000000000000000000000000000000" }
  }
  expect_failures = [var.values]
}

run "a_short_value_is_refused" {
  command = plan
  variables {
    settings = ["ACCESS_TOKEN"]
    values   = { ACCESS_TOKEN = "hunter2" }
  }
  expect_failures = [var.values]
}

run "another_vendors_key_is_refused" {
  command = plan
  variables {
    settings = ["ANTHROPIC_API_KEY"]
    values   = { ANTHROPIC_API_KEY = "sk-proj-0f3c9a1e5b7d2468ace0135" }
  }
  expect_failures = [var.values]
}

run "the_journals_address_is_not_among_them" {
  command = plan
  variables {
    settings = ["REDIS_URL"]
    values   = { REDIS_URL = "rediss://u:p@journal.invalid:6379/0" }
  }
  expect_failures = [var.settings]
}
