# The topic retains what new pods must read, in the chosen region and with the chosen key.

mock_provider "google" {
  source = "./tests/mocks"
}

variables {
  project_id = "relay-test"
}

run "default_topic_retains_one_hour_in_region" {
  assert {
    condition     = google_pubsub_topic.events.name == "relay-events"
    error_message = "the topic must be relay-events, which RELAY_BROKER names"
  }

  assert {
    condition     = google_pubsub_topic.events.message_retention_duration == "3600s"
    error_message = "the topic must retain an hour"
  }

  assert {
    condition     = tolist(google_pubsub_topic.events.message_storage_policy[0].allowed_persistence_regions) == tolist(["europe-west1"])
    error_message = "events must stay in the region"
  }

  assert {
    condition     = google_pubsub_topic.events.kms_key_name == null && length(google_kms_crypto_key.events) == 0
    error_message = "by default there must be no key"
  }

  assert {
    condition     = output.broker == "pubsub://relay-test/relay-events"
    error_message = "the output broker must be a valid RELAY_BROKER"
  }
}

run "retention_below_pubsub_minimum_is_refused" {
  command = plan

  variables {
    message_retention_seconds = 599
    replay_window_seconds     = 300
  }

  expect_failures = [var.message_retention_seconds]
}

run "retention_below_replay_window_is_refused" {
  command = plan

  variables {
    message_retention_seconds = 3600
    replay_window_seconds     = 3601
  }

  expect_failures = [var.message_retention_seconds]
}

run "retention_equal_to_replay_window_is_accepted" {
  command = plan

  variables {
    message_retention_seconds = 600
    replay_window_seconds     = 600
  }

  assert {
    condition     = google_pubsub_topic.events.message_retention_duration == "600s"
    error_message = "the retention must be that of the variable"
  }
}

run "retention_above_31_days_is_refused" {
  command = plan

  variables {
    message_retention_seconds = 2678401
  }

  expect_failures = [var.message_retention_seconds]
}

run "topic_id_too_long_for_feeds_is_refused" {
  command = plan

  variables {
    topic_id = join("", [for n in range(129) : "x"])
  }

  expect_failures = [var.topic_id]
}

run "own_key_encrypts_topic" {
  variables {
    cmek_enabled = true
  }

  assert {
    condition     = google_pubsub_topic.events.kms_key_name == google_kms_crypto_key.events[0].id
    error_message = "the topic must be encrypted with the key"
  }

  assert {
    condition     = google_kms_crypto_key_iam_member.events[0].crypto_key_id == google_kms_crypto_key.events[0].id
    error_message = "the grant must be on the key"
  }

  assert {
    condition     = google_kms_crypto_key_iam_member.events[0].member == "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com"
    error_message = "Pub/Sub's own account must have the grant"
  }

  assert {
    condition     = google_kms_crypto_key_iam_member.events[0].role == "roles/cloudkms.cryptoKeyEncrypterDecrypter"
    error_message = "Pub/Sub must only encrypt and decrypt"
  }

  assert {
    condition     = google_kms_key_ring.this[0].location == google_container_cluster.this[0].location
    error_message = "the key must be in the region of the events"
  }

  assert {
    condition     = contains(keys(google_project_service.this), "cloudkms.googleapis.com")
    error_message = "Cloud KMS must be enabled"
  }
}
