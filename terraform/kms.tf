# The topic's own key, with cmek_enabled. Key rings cannot be deleted. After a destroy, a later
# apply in the same project must import this one.
resource "google_kms_key_ring" "this" {
  count = var.cmek_enabled ? 1 : 0

  name     = local.name
  location = var.region

  depends_on = [google_project_service.this]
}

resource "google_kms_crypto_key" "events" {
  count = var.cmek_enabled ? 1 : 0

  name            = var.topic_id
  key_ring        = google_kms_key_ring.this[0].id
  rotation_period = "7776000s" # 90 days
}

# Pub/Sub's own account must exist. README.md has the command that creates it.
resource "google_kms_crypto_key_iam_member" "events" {
  count = var.cmek_enabled ? 1 : 0

  crypto_key_id = google_kms_crypto_key.events[0].id
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
}
