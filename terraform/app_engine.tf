# The application of a project. Google can neither delete it nor change its location.
resource "google_app_engine_application" "this" {
  count = local.runtimes.app_engine

  project     = var.project_id
  location_id = var.app_engine.location

  depends_on = [google_project_service.this]
}

# docs/APP-ENGINE.md has the same as an app.yaml, for gcloud.
resource "google_app_engine_flexible_app_version" "this" {
  count = local.runtimes.app_engine

  service         = "default"
  version_id      = "relay"
  runtime         = "custom"
  service_account = google_service_account.pods[0].email

  deployment {
    container {
      image = var.pods.image
    }
  }

  env_variables = merge(local.pod_settings, {
    # App Engine asks only the port of the clients, so the probes must answer there.
    RELAY_ADMIN_LISTEN   = ""
    RELAY_DRAIN_DELAY    = "0s"
    RELAY_DRAIN_SPREAD   = "10s"
    RELAY_DRAIN_DEADLINE = "15s"
  })

  resources {
    cpu       = 1
    memory_gb = local.pod_memory_gib
  }

  # As the probes of k8s/base.
  readiness_check {
    path              = "/readyz"
    check_interval    = "${local.health.interval}s"
    timeout           = "${local.health.timeout}s"
    failure_threshold = local.health.unhealthy
    success_threshold = local.health.healthy
    app_start_timeout = "300s"
  }

  liveness_check {
    path              = "/livez"
    check_interval    = "20s"
    timeout           = "5s"
    failure_threshold = 3
    success_threshold = 1
    initial_delay     = "60s"
  }

  automatic_scaling {
    min_total_instances = var.app_engine.min_instances
    max_total_instances = var.app_engine.max_instances
    cool_down_period    = "120s"

    cpu_utilization {
      target_utilization = 0.60
    }
  }

  # The default service of an application cannot be deleted.
  noop_on_destroy           = true
  delete_service_on_destroy = false

  depends_on = [
    google_app_engine_application.this,
    google_artifact_registry_repository_iam_member.runtimes,
    google_project_iam_member.runtimes,
    google_pubsub_topic_iam_member.runtimes,
  ]
}
