terraform {
  required_version = ">= 1.11" # the tests say what a mock knows during a plan

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }
}
