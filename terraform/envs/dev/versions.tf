terraform {
  required_version = ">= 1.11" # write-only arguments, and a lock in the state's bucket

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
    random = {
      source  = "hashicorp/random"
      version = "~> 3.6"
    }
  }

  # Where the state is: terraform init -backend-config=backend.hcl
  backend "s3" {
    key          = "bridge/dev.tfstate"
    encrypt      = true
    use_lockfile = true
  }
}

provider "aws" {
  region              = var.region
  allowed_account_ids = [var.account_id]

  default_tags {
    tags = {
      Application = "bridge"
      Environment = "dev"
      ManagedBy   = "terraform"
    }
  }
}
