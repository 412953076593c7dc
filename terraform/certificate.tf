# All of this exists only with a domain. The Gateway names the certificate map.
resource "google_certificate_manager_certificate_map" "gateway" {
  count = var.domain == null ? 0 : 1

  name        = local.name
  description = "The relay's certificate."

  depends_on = [google_project_service.this]
}

resource "google_certificate_manager_certificate_map_entry" "gateway" {
  count = var.domain == null ? 0 : 1

  name         = local.name
  description  = "The relay's domain."
  map          = google_certificate_manager_certificate_map.gateway[0].name
  hostname     = var.domain
  certificates = [google_certificate_manager_certificate.gateway[0].id]
}

resource "google_certificate_manager_certificate" "gateway" {
  count = var.domain == null ? 0 : 1

  name        = local.name
  description = "Issued and renewed by Google."

  managed {
    domains            = [var.domain]
    dns_authorizations = [google_certificate_manager_dns_authorization.gateway[0].id]
  }
}

# Proof by DNS works before the address answers. So the certificate exists before the first client
# connects.
resource "google_certificate_manager_dns_authorization" "gateway" {
  count = var.domain == null ? 0 : 1

  name        = local.name
  description = "Proves to Google that the domain belongs to this project."
  domain      = var.domain

  depends_on = [google_project_service.this]
}
