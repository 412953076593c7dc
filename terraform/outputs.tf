output "project_id" {
  description = "Project, for the overlay."
  value       = var.project_id
}

output "region" {
  description = "Region of cluster and images."
  value       = google_container_cluster.this.location
}

output "get_credentials" {
  description = "Lets kubectl speak to the cluster."
  value = join(" ", [
    "gcloud container clusters get-credentials ${google_container_cluster.this.name}",
    "--project ${var.project_id} --location ${google_container_cluster.this.location} --dns-endpoint",
  ])
}

output "image_repository" {
  description = "Where images are pushed; an image is this, then /relay and a tag or digest."
  value       = "${google_artifact_registry_repository.images.location}-docker.pkg.dev/${var.project_id}/${google_artifact_registry_repository.images.repository_id}"
}

output "topic" {
  description = "Id of the topic."
  value       = google_pubsub_topic.events.name
}

output "broker" {
  description = "The pods' RELAY_BROKER."
  value       = "pubsub://${var.project_id}/${google_pubsub_topic.events.name}"
}

output "pods_principal" {
  description = "The pods' identity in IAM."
  value       = local.pods
}

output "address_name" {
  description = "Name of the static address, for the Gateway's spec.addresses."
  value       = google_compute_global_address.gateway.name
}

output "address" {
  description = "The static address itself."
  value       = google_compute_global_address.gateway.address
}

output "certificate_map" {
  description = "For the Gateway's annotation networking.gke.io/certmap; null without a domain."
  value       = one(google_certificate_manager_certificate_map.gateway[*].name)
}

output "dns_records" {
  description = "What the domain's DNS must say. With dns_zone it says so already."
  value       = local.dns_records
}
