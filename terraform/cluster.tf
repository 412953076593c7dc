resource "google_container_cluster" "this" {
  #checkov:skip=CKV_GCP_12:Autopilot always enforces NetworkPolicy, and refuses the setting
  #checkov:skip=CKV_GCP_13:GKE issues no client certificates unless asked
  #checkov:skip=CKV_GCP_20:the control plane has no IP endpoint (control_plane_endpoints_config)
  #checkov:skip=CKV_GCP_21:labels come from the provider's default_labels
  #checkov:skip=CKV_GCP_61:Autopilot always has intranode visibility; network.tf has the flow logs
  #checkov:skip=CKV_GCP_65:access is by IAM; the organisation chooses a group for RBAC
  #checkov:skip=CKV_GCP_66:Binary Authorization needs attestors, which the organisation chooses
  #checkov:skip=CKV_GCP_69:Autopilot nodes always have the metadata server
  count = var.gke_enabled ? 1 : 0

  name        = local.name
  description = "Runs the relay's pods."
  location    = var.region

  enable_autopilot    = true
  deletion_protection = var.deletion_protection

  network         = google_compute_network.this.id
  subnetwork      = google_compute_subnetwork.nodes.id
  networking_mode = "VPC_NATIVE"

  ip_allocation_policy {
    cluster_secondary_range_name  = "pods"
    services_secondary_range_name = "services"
  }

  private_cluster_config {
    enable_private_nodes = true
  }

  # kubectl connects to the cluster's DNS name, and IAM decides. There is no IP address to attack.
  control_plane_endpoints_config {
    dns_endpoint_config {
      allow_external_traffic = true
    }

    ip_endpoints_config {
      enabled = false
    }
  }

  # Autopilot always has it. It is stated here because the pods' identity (pubsub.tf) depends on it.
  workload_identity_config {
    workload_pool = "${var.project_id}.svc.id.goog"
  }

  # For the Gateway, HTTPRoute and policies of k8s/overlays/gke.
  gateway_api_config {
    channel = "CHANNEL_STANDARD"
  }

  release_channel {
    channel = var.release_channel
  }

  # A node upgrade moves every pod once, and so every WebSocket. Choose quiet hours.
  maintenance_policy {
    recurring_window {
      start_time = var.maintenance_window.start_time
      end_time   = var.maintenance_window.end_time
      recurrence = var.maintenance_window.recurrence
    }
  }

  # Without this, nodes run as the Compute Engine default account, which may do almost anything in
  # the project.
  cluster_autoscaling {
    auto_provisioning_defaults {
      service_account = google_service_account.nodes[0].email
      oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]
    }
  }

  monitoring_config {
    # Alerts (monitoring.tf) read the state of the Deployment and of the HorizontalPodAutoscaler.
    enable_components = ["SYSTEM_COMPONENTS", "DEPLOYMENT", "HPA", "POD"]

    # Reads /metrics of the pods, as the PodMonitoring of k8s/ says.
    managed_prometheus {
      enabled = true
    }
  }

  # The first nodes must be able to write logs and to pull images.
  depends_on = [
    google_artifact_registry_repository_iam_member.nodes,
    google_project_iam_member.nodes,
  ]
}

resource "google_service_account" "nodes" {
  count = var.gke_enabled ? 1 : 0

  account_id   = "${local.name}-nodes"
  display_name = "Nodes of the cluster ${local.name}"
  description  = "Writes logs and metrics of the nodes and pulls images. Pods have identities of their own."

  depends_on = [google_project_service.this]
}

# A node may write logs and metrics, and nothing more.
resource "google_project_iam_member" "nodes" {
  count = var.gke_enabled ? 1 : 0

  project = var.project_id
  role    = "roles/container.defaultNodeServiceAccount"
  member  = google_service_account.nodes[0].member
}

# The HorizontalPodAutoscaler reads connections per pod through the Custom Metrics Stackdriver
# Adapter.
resource "google_project_iam_member" "metrics_adapter" {
  count = var.gke_enabled ? 1 : 0

  project = var.project_id
  role    = "roles/monitoring.viewer"
  member  = "${local.principals}/ns/custom-metrics/sa/custom-metrics-stackdriver-adapter"

  # The first cluster creates the project's workload identity pool. IAM refuses principals of a pool
  # that does not exist.
  depends_on = [google_container_cluster.this]
}

locals {
  # A Kubernetes service account is this, then /ns/NAMESPACE/sa/NAME. It needs no Google service
  # account and no key.
  principals = join("/", [
    "principal://iam.googleapis.com/projects/${data.google_project.this.number}",
    "locations/global/workloadIdentityPools/${var.project_id}.svc.id.goog/subject",
  ])
}
