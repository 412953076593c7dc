# What the runtimes outside GKE share: settings of the pods, and their identity. docs/CLOUD-RUN.md,
# docs/COMPUTE-ENGINE.md and docs/APP-ENGINE.md say what differs.
locals {
  runtimes = {
    cloud_run      = var.cloud_run == null ? 0 : 1
    compute_engine = var.compute_engine == null ? 0 : 1
    app_engine     = var.app_engine == null ? 0 : 1
  }

  # One of each shared resource, or none.
  outside_gke = max(values(local.runtimes)...)

  pod_settings = merge(
    {
      RELAY_BROKER = "pubsub://${var.project_id}/${google_pubsub_topic.events.name}"
      # The topic allows this region only, and the global endpoint may be in another.
      RELAY_PUBSUB_ENDPOINT = "${var.region}-pubsub.googleapis.com"
      RELAY_AUTH            = "jwt"
      RELAY_PAGE            = "off"
      RELAY_LOG_FORMAT      = "json"
      RELAY_REPLAY_WINDOW   = "${var.replay_window_seconds}s"
    },
    try(var.pods.settings, {}),
  )

  # The balancer's health check, as in k8s/overlays/gke: a pod is removed within 13 s.
  health = { interval = 5, timeout = 3, unhealthy = 2, healthy = 1 }

  # The memory of one pod, as in k8s/base.
  pod_memory_gib = 1
}

resource "google_service_account" "pods" {
  count = local.outside_gke

  account_id   = "${local.name}-pods"
  display_name = "Pods outside GKE"
  description  = "Publishes to the topic and has the feeds of the pods."

  depends_on = [google_project_service.this]
}

resource "google_pubsub_topic_iam_member" "runtimes" {
  count = local.outside_gke

  topic  = google_pubsub_topic.events.id
  role   = google_project_iam_custom_role.topic.id
  member = google_service_account.pods[0].member
}

resource "google_project_iam_member" "runtimes" {
  for_each = local.outside_gke == 0 ? {} : {
    feeds   = google_project_iam_custom_role.feeds.id
    logs    = "roles/logging.logWriter"
    metrics = "roles/monitoring.metricWriter"
  }

  project = var.project_id
  role    = each.value
  member  = google_service_account.pods[0].member
}

resource "google_artifact_registry_repository_iam_member" "runtimes" {
  count = local.outside_gke

  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.name
  role       = "roles/artifactregistry.reader"
  member     = google_service_account.pods[0].member
}
