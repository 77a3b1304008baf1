terraform {
  required_version = ">= 1.11" # that of all modules: who takes one takes them with the roots

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }
}
