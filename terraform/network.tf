resource "google_compute_network" "this" {
  #checkov:skip=CKV2_GCP_18:closed by default; GKE opens what nodes need, front_ends the rest
  name                    = local.name
  description             = "Network of the relay's cluster."
  auto_create_subnetworks = false
  routing_mode            = "REGIONAL"

  depends_on = [google_project_service.this]
}

resource "google_compute_subnetwork" "nodes" {
  name          = "${local.name}-nodes"
  description   = "Nodes, pods and services of the relay's cluster."
  network       = google_compute_network.this.id
  region        = var.region
  ip_cidr_range = var.ranges.nodes

  # Pods reach Pub/Sub, Artifact Registry and Monitoring without a public address and without the
  # cost of Cloud NAT.
  private_ip_google_access = true

  secondary_ip_range {
    range_name    = "pods"
    ip_cidr_range = var.ranges.pods
  }

  secondary_ip_range {
    range_name    = "services"
    ip_cidr_range = var.ranges.services
  }

  # A sample shows enough. The logs of all flows of 100,000 WebSockets would cost more than the
  # pods.
  log_config {
    aggregation_interval = "INTERVAL_10_MIN"
    flow_sampling        = 0.1
    metadata             = "INCLUDE_ALL_METADATA"
  }
}

# Google's front ends and health checks connect to the pods directly. GKE opens the port that a
# Gateway serves. No documentation promises that GKE also opens a port that only a HealthCheckPolicy
# names. Without that port no backend is ever healthy.
resource "google_compute_firewall" "front_ends" {
  count = var.gke_enabled ? 1 : 0

  name        = "${local.name}-front-ends"
  description = "From Google's front ends and health checks to the ports of the pods."
  network     = google_compute_network.this.id
  direction   = "INGRESS"

  # The NetworkPolicy of k8s/overlays/gke has the same two.
  source_ranges           = ["130.211.0.0/22", "35.191.0.0/16"]
  target_service_accounts = [google_service_account.nodes[0].email]

  allow {
    protocol = "tcp"
    ports    = [for port in values(local.ports) : tostring(port)]
  }
}

# The way out to services outside Google: the JWKS of another identity provider, or an OpenTelemetry
# collector elsewhere.
resource "google_compute_router" "this" {
  name    = local.name
  network = google_compute_network.this.id
  region  = var.region
}

resource "google_compute_router_nat" "this" {
  name                               = local.name
  router                             = google_compute_router.this.name
  region                             = var.region
  nat_ip_allocate_option             = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat = "LIST_OF_SUBNETWORKS"

  # Only the ranges of nodes and pods: services have no traffic of their own.
  subnetwork {
    name                     = google_compute_subnetwork.nodes.id
    source_ip_ranges_to_nat  = ["PRIMARY_IP_RANGE", "LIST_OF_SECONDARY_IP_RANGES"]
    secondary_ip_range_names = ["pods"]
  }

  log_config {
    enable = true
    filter = "ERRORS_ONLY"
  }
}
