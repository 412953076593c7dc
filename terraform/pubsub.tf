resource "google_pubsub_topic" "events" {
  name = var.topic_id

  # With this a new pod, or one that is back, reads events from before its feed existed.
  message_retention_duration = "${var.message_retention_seconds}s"

  kms_key_name = one(google_kms_crypto_key.events[*].id)

  # Messages of one ordering key must be published in one region. Also, events stay where the pods
  # are.
  message_storage_policy {
    allowed_persistence_regions = [var.region]
  }

  depends_on = [
    google_kms_crypto_key_iam_member.events,
    google_project_service.this,
  ]
}

# There are two roles, because they are granted on different resources. These permissions hold for
# the topic alone.
resource "google_project_iam_custom_role" "topic" {
  role_id     = "pubsubRelayTopic"
  title       = "pubsub-relay: topic"
  description = "Publish to the topic, and attach feeds to it."

  permissions = [
    "pubsub.topics.attachSubscription",
    "pubsub.topics.get",
    "pubsub.topics.publish",
  ]

  depends_on = [google_project_service.this]
}

# Pods create their feeds under names that they choose, and Pub/Sub has no condition on the name of
# a subscription. So these permissions hold for every subscription of the project: give the relay a
# project of its own.
resource "google_project_iam_custom_role" "feeds" {
  role_id     = "pubsubRelayFeeds"
  title       = "pubsub-relay: feeds"
  description = "Create, seek, pull, list and delete the subscriptions of the pods."

  permissions = [
    "pubsub.subscriptions.consume",
    "pubsub.subscriptions.create",
    "pubsub.subscriptions.delete",
    "pubsub.subscriptions.list",
  ]

  depends_on = [google_project_service.this]
}

locals {
  pods = "${local.principals}/ns/${local.namespace}/sa/${local.service_account}"
}

resource "google_pubsub_topic_iam_member" "pods" {
  count = var.gke_enabled ? 1 : 0

  topic  = google_pubsub_topic.events.id
  role   = google_project_iam_custom_role.topic.id
  member = local.pods

  # See metrics_adapter in cluster.tf.
  depends_on = [google_container_cluster.this]
}

resource "google_project_iam_member" "pods" {
  count = var.gke_enabled ? 1 : 0

  project = var.project_id
  role    = google_project_iam_custom_role.feeds.id
  member  = local.pods

  # See metrics_adapter in cluster.tf.
  depends_on = [google_container_cluster.this]
}
