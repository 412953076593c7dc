# What the Gateway speaks with clients (GCPGatewayPolicy of k8s/overlays/gke, by this name). Google's default still takes TLS 1.0.
resource "google_compute_ssl_policy" "gateway" {
  name            = local.name
  description     = "TLS 1.2 and later, with today's ciphers only."
  profile         = "MODERN"
  min_tls_version = "TLS_1_2"

  depends_on = [google_project_service.this]
}
