# The topic's own key, if cmek_enabled. Key rings cannot be deleted: destroy forgets this one, and a later apply in the
# same project must import it.
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

# Pub/Sub's own account, which must exist: see README.md for the one command that makes it.
resource "google_kms_crypto_key_iam_member" "events" {
  count = var.cmek_enabled ? 1 : 0

  crypto_key_id = google_kms_crypto_key.events[0].id
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
}
