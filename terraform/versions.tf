terraform {
  # From 1.9 on, the validation of a variable may read another variable.
  required_version = ">= 1.9.0, < 2.0.0"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 8.7.0, < 9.0.0"
    }
  }

  # The state is in your own bucket: terraform init -backend-config=backend.hcl (see README.md).
  backend "gcs" {}
}
