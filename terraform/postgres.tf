# The topic in Cloud SQL for PostgreSQL instead of Pub/Sub, with the variable postgres. The pods
# connect through the Auth Proxy beside them, and log in by IAM: there is no password.
locals {
  # One of each resource, or none.
  postgres = var.postgres == null ? 0 : 1
}

# Cloud SQL's private addresses come from a network of Google's own, which is peered with ours.
resource "google_compute_global_address" "postgres" {
  count = local.postgres

  name          = "${local.name}-postgres"
  description   = "Range of Cloud SQL's private addresses."
  purpose       = "VPC_PEERING"
  address_type  = "INTERNAL"
  network       = google_compute_network.this.id
  address       = split("/", var.postgres.range)[0]
  prefix_length = tonumber(split("/", var.postgres.range)[1])
}

resource "google_service_networking_connection" "postgres" {
  count = local.postgres

  network                 = google_compute_network.this.id
  service                 = "servicenetworking.googleapis.com"
  reserved_peering_ranges = [google_compute_global_address.postgres[0].name]
  # A peering that other instances use cannot be deleted.
  deletion_policy = "ABANDON"

  depends_on = [google_project_service.this]
}

resource "google_sql_database_instance" "postgres" {
  #checkov:skip=CKV_GCP_79:the version is chosen on purpose
  count = local.postgres

  name                = "${local.name}-postgres"
  region              = var.region
  database_version    = "POSTGRES_17"
  deletion_protection = var.deletion_protection

  settings {
    tier    = var.postgres.tier
    edition = "ENTERPRISE"
    # A second zone has a synchronous copy of the disk. So a failover loses no acknowledged event.
    availability_type           = "REGIONAL"
    disk_type                   = "PD_SSD"
    disk_autoresize             = true
    deletion_protection_enabled = var.deletion_protection
    user_labels                 = local.labels

    ip_configuration {
      ipv4_enabled    = false
      private_network = google_compute_network.this.id
      # Only through the Auth Proxy or a connector, which prove their identity.
      ssl_mode = "TRUSTED_CLIENT_CERTIFICATE_REQUIRED"
    }

    database_flags {
      name  = "cloudsql.iam_authentication"
      value = "on"
    }

    # Three for each pod of the autoscaler's maximum, twice during a rollout, and some for people.
    database_flags {
      name  = "max_connections"
      value = tostring(var.postgres.max_connections)
    }

    # The topic is short-lived. Backups are for the tables of other programs in this database.
    backup_configuration {
      enabled                        = true
      point_in_time_recovery_enabled = true
    }

    maintenance_window {
      day          = 2
      hour         = 3
      update_track = "stable"
    }
  }

  depends_on = [google_service_networking_connection.postgres]
}

resource "google_sql_database" "postgres" {
  count = local.postgres

  name     = "relay"
  instance = google_sql_database_instance.postgres[0].name
}

# Cloud SQL logs in service accounts of Google only, so the pods act as this one.
resource "google_service_account" "postgres" {
  count = local.postgres

  account_id   = "relay-postgres"
  display_name = "pubsub-relay: pods at Cloud SQL"
}

resource "google_service_account_iam_member" "postgres" {
  count = var.gke_enabled ? local.postgres : 0

  service_account_id = google_service_account.postgres[0].name
  role               = "roles/iam.workloadIdentityUser"
  member             = "serviceAccount:${var.project_id}.svc.id.goog[${local.namespace}/${local.service_account}]"

  # See metrics_adapter in cluster.tf.
  depends_on = [google_container_cluster.this]
}

# To find the instance, and to log in.
resource "google_project_iam_member" "postgres" {
  for_each = var.postgres == null ? toset([]) : toset(["roles/cloudsql.client", "roles/cloudsql.instanceUser"])

  project = var.project_id
  role    = each.value
  member  = google_service_account.postgres[0].member
}

# A new user has no right to any table. docs/POSTGRES.md has the grants.
resource "google_sql_user" "postgres" {
  count = local.postgres

  instance = google_sql_database_instance.postgres[0].name
  name     = trimsuffix(google_service_account.postgres[0].email, ".gserviceaccount.com")
  type     = "CLOUD_IAM_SERVICE_ACCOUNT"
}
