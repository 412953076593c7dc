# The Gateway takes the address by this name. The address outlives the Gateway, so DNS need not
# change when the Gateway is created anew.
resource "google_compute_global_address" "gateway" {
  name        = local.name
  description = "Address to which the relay's clients connect."

  depends_on = [google_project_service.this]
}
