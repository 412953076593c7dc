# The topic keeps what new pods must read, where and under the key that was asked for.

mock_provider "google" {
  source = "./tests/mocks"
}

variables {
  project_id = "relay-test"
}

run "defaults_retain_an_hour_in_the_region" {
  assert {
    condition     = google_pubsub_topic.events.name == "relay-events"
    error_message = "the pods' RELAY_BROKER names relay-events"
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
    error_message = "no key unless it is asked for"
  }

  assert {
    condition     = output.broker == "pubsub://relay-test/relay-events"
    error_message = "broker must be what RELAY_BROKER takes"
  }
}

run "retention_below_what_pubsub_takes_is_refused" {
  command = plan

  variables {
    message_retention_seconds = 599
    replay_window_seconds     = 300
  }

  expect_failures = [var.message_retention_seconds]
}

run "retention_below_the_replay_window_is_refused" {
  command = plan

  variables {
    message_retention_seconds = 3600
    replay_window_seconds     = 3601
  }

  expect_failures = [var.message_retention_seconds]
}

run "retention_of_just_the_replay_window_is_accepted" {
  command = plan

  variables {
    message_retention_seconds = 600
    replay_window_seconds     = 600
  }

  assert {
    condition     = google_pubsub_topic.events.message_retention_duration == "600s"
    error_message = "retention must be as asked"
  }
}

run "retention_above_31_days_is_refused" {
  command = plan

  variables {
    message_retention_seconds = 2678401
  }

  expect_failures = [var.message_retention_seconds]
}

run "a_topic_id_that_leaves_no_room_for_feeds_is_refused" {
  command = plan

  variables {
    topic_id = join("", [for n in range(129) : "x"])
  }

  expect_failures = [var.topic_id]
}

run "an_own_key_encrypts_the_topic_and_pubsub_may_use_it" {
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
    error_message = "Pub/Sub's own account must have the key"
  }

  assert {
    condition     = google_kms_crypto_key_iam_member.events[0].role == "roles/cloudkms.cryptoKeyEncrypterDecrypter"
    error_message = "Pub/Sub must encrypt and decrypt, no more"
  }

  assert {
    condition     = google_kms_key_ring.this[0].location == google_container_cluster.this.location
    error_message = "the key must be in the region of the events"
  }

  assert {
    condition     = contains(keys(google_project_service.this), "cloudkms.googleapis.com")
    error_message = "Cloud KMS must be enabled"
  }
}
