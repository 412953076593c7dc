# The Gateway takes it by this name. It outlives the Gateway, so that DNS need not change when that is made anew.
resource "google_compute_global_address" "gateway" {
  name        = local.name
  description = "Where the relay's users connect."

  depends_on = [google_project_service.this]
}
