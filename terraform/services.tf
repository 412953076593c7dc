locals {
  services = concat(
    [
      "artifactregistry.googleapis.com",
      "compute.googleapis.com",
      "iam.googleapis.com",
      "logging.googleapis.com",
      "monitoring.googleapis.com",
      "pubsub.googleapis.com",
    ],
    var.gke_enabled ? ["container.googleapis.com"] : [],
    var.cloud_run == null ? [] : ["run.googleapis.com"],
    var.app_engine == null ? [] : ["appengine.googleapis.com", "appengineflex.googleapis.com"],
    var.cmek_enabled ? ["cloudkms.googleapis.com"] : [],
    var.control_secret_enabled ? ["secretmanager.googleapis.com"] : [],
    var.domain == null ? [] : ["certificatemanager.googleapis.com"],
    var.dns_zone == null ? [] : ["dns.googleapis.com"],
    var.postgres == null ? [] : ["servicenetworking.googleapis.com", "sqladmin.googleapis.com"],
    var.budget == null ? [] : ["billingbudgets.googleapis.com"],
  )
}

resource "google_project_service" "this" {
  for_each = toset(local.services)

  service = each.value

  # Other applications of the project may use the same service, so destroy leaves it enabled.
  disable_on_destroy = false
}
