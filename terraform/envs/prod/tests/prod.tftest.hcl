mock_provider "aws" {}
mock_provider "random" {}

# What the modules plan is tested there, and the root as a whole by its simulated apply and dev/terraform_figures.py.
run "what_could_only_fail_later_is_refused_at_once" {
  command = plan

  variables {
    account_id         = "1234"
    region             = "eu-central-1"
    availability_zones = ["eu-central-1a", "eu-central-1b"]
    domain_name        = "https://bridge.example.com"
    certificate_arn    = "arn:aws:acm:eu-central-1:123456789012:certificate/00000000-0000-0000-0000-000000000000"
    image              = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/bridge-server:1.0.0"
    n8n_api_url        = "http://n8n.example.com:5678"
    alarm_email        = "on-call@example.com"
    secrets            = {}
  }

  expect_failures = [var.account_id, var.domain_name, var.n8n_api_url]
}
