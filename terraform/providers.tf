provider "google" {
  project = var.project_id
  region  = var.region

  # Budgets are asked for with a person's credentials: without these two the API does not know whose quota to use.
  user_project_override = true
  billing_project       = var.project_id

  # On every resource that takes labels.
  default_labels = local.labels
}

data "google_project" "this" {
  project_id = var.project_id
}

locals {
  # Names that the manifests of k8s/ know too. An environment is a project of its own, so none needs a suffix.
  name            = "pubsub-relay"
  namespace       = "pubsub-relay"
  service_account = "relay"

  # Where a pod serves clients, and where it answers health checks (RELAY_LISTEN, RELAY_ADMIN_LISTEN).
  ports = { http = 8080, admin = 9090 }

  labels = merge({ app = local.name, managed-by = "terraform" }, var.labels)
}
