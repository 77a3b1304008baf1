# cp example.tfvars terraform.tfvars, and say what is yours. Secrets come by TF_VAR_secrets, never by a file here.
account_id         = "123456789012"
region             = "eu-central-1"
availability_zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]

domain_name     = "bridge.example.com"
certificate_arn = "arn:aws:acm:eu-central-1:123456789012:certificate/00000000-0000-0000-0000-000000000000"

image       = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/bridge-server:1.0.0"
n8n_api_url = "https://n8n.example.com"
alarm_email = "on-call@example.com"
