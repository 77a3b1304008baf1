terraform {
  required_version = ">= 1.11" # write-only arguments: no value is kept in a plan or a state

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }
}
