resource "google_cloud_run_v2_service" "this" {
  count = local.runtimes.cloud_run

  name                = local.name
  description         = "GraphQL subscriptions over the topic."
  location            = var.region
  ingress             = "INGRESS_TRAFFIC_ALL"
  deletion_protection = var.deletion_protection

  template {
    service_account       = google_service_account.pods[0].email
    execution_environment = "EXECUTION_ENVIRONMENT_GEN2"

    # The whole time of a WebSocket or stream. An hour is the most.
    timeout = "3600s"

    # Each connection is a request that does not end.
    max_instance_request_concurrency = var.cloud_run.connections

    scaling {
      min_instance_count = var.cloud_run.min_instances
      max_instance_count = var.cloud_run.max_instances
    }

    containers {
      image = var.pods.image

      ports {
        container_port = local.ports.http
      }

      resources {
        limits = { cpu = "1", memory = "${local.pod_memory_gib}Gi" }

        # CPU also between requests: the feed, heartbeats and pings never pause.
        cpu_idle          = false
        startup_cpu_boost = true
      }

      dynamic "env" {
        for_each = merge(local.pod_settings, {
          RELAY_MAX_CONNECTIONS = tostring(var.cloud_run.connections)
          # 10 s after SIGTERM the instance is killed. 5 s of them are for what follows the drain.
          RELAY_DRAIN_DELAY    = "0s"
          RELAY_DRAIN_SPREAD   = "4s"
          RELAY_DRAIN_DEADLINE = "5s"
        })

        content {
          name  = env.key
          value = env.value
        }
      }

      # An instance gets clients once it is ready: its feed has caught up. 60 s are allowed for it.
      startup_probe {
        period_seconds    = 2
        timeout_seconds   = 2
        failure_threshold = 30

        http_get {
          path = "/readyz"
          port = local.ports.admin
        }
      }

      # An outage of Pub/Sub must not restart the instances, so this is not /readyz.
      liveness_probe {
        period_seconds    = 20
        timeout_seconds   = 5
        failure_threshold = 3

        http_get {
          path = "/livez"
          port = local.ports.admin
        }
      }
    }
  }

  depends_on = [
    google_artifact_registry_repository_iam_member.runtimes,
    google_project_iam_member.runtimes,
    google_pubsub_topic_iam_member.runtimes,
  ]
}

# The pods check the tokens of their clients. Cloud Run's own check would refuse browsers.
resource "google_cloud_run_v2_service_iam_member" "clients" {
  count = local.runtimes.cloud_run

  name     = google_cloud_run_v2_service.this[0].name
  location = google_cloud_run_v2_service.this[0].location
  role     = "roles/run.invoker"
  member   = "allUsers"
}
