# The TLS versions that the Gateway accepts. GCPGatewayPolicy in k8s/overlays/gke names this policy.
# Google's default still accepts TLS 1.0.
resource "google_compute_ssl_policy" "gateway" {
  name            = local.name
  description     = "TLS 1.2 and later, with modern ciphers only."
  profile         = "MODERN"
  min_tls_version = "TLS_1_2"

  depends_on = [google_project_service.this]
}
