provider "google" {
  project = var.project_id
  region  = var.region

  # The budget API is called with a user's credentials, which name no project for its quota. These
  # two name it.
  user_project_override = true
  billing_project       = var.project_id

  # For every resource that can have labels.
  default_labels = local.labels
}

data "google_project" "this" {
  project_id = var.project_id
}

locals {
  # The manifests of k8s/ have the same names. Each environment is a project of its own, so no name
  # needs a suffix.
  name            = "pubsub-relay"
  namespace       = "pubsub-relay"
  service_account = "relay"

  # The ports for clients (RELAY_LISTEN) and for health checks (RELAY_ADMIN_LISTEN).
  ports = { http = 8080, admin = 9090 }

  labels = merge({ app = local.name, managed-by = "terraform" }, var.labels)
}
