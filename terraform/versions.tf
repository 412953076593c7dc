terraform {
  # 1.9: a variable's validation may look at another variable.
  required_version = ">= 1.9.0, < 2.0.0"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 8.7.0, < 9.0.0"
    }
  }

  # State lives in a bucket of yours: terraform init -backend-config=backend.hcl (see README.md).
  backend "gcs" {}
}
