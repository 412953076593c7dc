# Keeps the secret by which pods prove their heartbeats, with control_secret_enabled. Its value never
# passes through Terraform, so the state holds no secret. docs/OPERATIONS.md has the commands.
resource "google_secret_manager_secret" "control" {
  count = var.control_secret_enabled ? 1 : 0

  secret_id = "${local.name}-control"

  # Where the pods are, and nowhere else.
  replication {
    user_managed {
      replicas {
        location = var.region
      }
    }
  }

  depends_on = [google_project_service.this]
}
