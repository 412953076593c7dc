output "project_id" {
  description = "Project, for PROJECT in k8s/overlays/gke/deploy.env."
  value       = var.project_id
}

output "region" {
  description = "Region of the cluster and the images."
  value       = var.region
}

output "get_credentials" {
  description = "Command that gives kubectl access to the cluster. Null without gke_enabled."
  value = one([for cluster in google_container_cluster.this : join(" ", [
    "gcloud container clusters get-credentials ${cluster.name}",
    "--project ${var.project_id} --location ${cluster.location} --dns-endpoint",
  ])])
}

output "image_repository" {
  description = "Repository for images. An image is this, then /relay and a tag or digest."
  value       = "${google_artifact_registry_repository.images.location}-docker.pkg.dev/${var.project_id}/${google_artifact_registry_repository.images.repository_id}"
}

output "topic" {
  description = "Id of the topic."
  value       = google_pubsub_topic.events.name
}

output "broker" {
  description = "RELAY_BROKER of the pods."
  value       = "pubsub://${var.project_id}/${google_pubsub_topic.events.name}"
}

output "pods_principal" {
  description = "Identity of the pods in IAM."
  value       = local.pods
}

output "control_secret" {
  description = "Name of the control secret in Secret Manager. Null without control_secret_enabled."
  value       = one(google_secret_manager_secret.control[*].secret_id)
}

output "address_name" {
  description = "Name of the static address, for the Gateway's spec.addresses."
  value       = google_compute_global_address.gateway.name
}

output "address" {
  description = "The static address."
  value       = google_compute_global_address.gateway.address
}

output "certificate_map" {
  description = "Certificate map for the Gateway's annotation networking.gke.io/certmap. Null without a domain."
  value       = one(google_certificate_manager_certificate_map.gateway[*].name)
}

output "dns_records" {
  description = "DNS records that the domain needs. With dns_zone they exist already."
  value       = local.dns_records
}

output "postgres" {
  description = "Values for k8s/overlays/gke-postgres/postgres.env. Null without the variable postgres."
  value = var.postgres == null ? null : {
    INSTANCE = google_sql_database_instance.postgres[0].connection_name
    USER     = google_sql_user.postgres[0].name
    ACCOUNT  = google_service_account.postgres[0].email
  }
}

output "cloud_run_url" {
  description = "Where clients reach the pods on Cloud Run. Null without cloud_run."
  value       = one(google_cloud_run_v2_service.this[*].uri)
}
