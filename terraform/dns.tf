locals {
  # The records that the domain needs: the address, and the proof for the certificate.
  dns_records = var.domain == null ? {} : {
    address = {
      name = "${var.domain}."
      type = "A"
      data = google_compute_global_address.gateway.address
    }
    certificate = {
      name = google_certificate_manager_dns_authorization.gateway[0].dns_resource_record[0].name
      type = google_certificate_manager_dns_authorization.gateway[0].dns_resource_record[0].type
      data = google_certificate_manager_dns_authorization.gateway[0].dns_resource_record[0].data
    }
  }
}

# Only with a zone of Cloud DNS. Else enter the output dns_records at your DNS provider.
resource "google_dns_record_set" "this" {
  for_each = var.dns_zone == null ? {} : local.dns_records

  managed_zone = var.dns_zone
  name         = each.value.name
  type         = each.value.type
  rrdatas      = [each.value.data]
  ttl          = 300

  depends_on = [google_project_service.this]
}
