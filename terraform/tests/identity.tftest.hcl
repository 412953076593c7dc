# Pods have exactly the permissions that they need. No other identity has any.

mock_provider "google" {
  source = "./tests/mocks"
}

variables {
  project_id = "relay-test"
}

run "pods_have_exactly_needed_permissions" {
  assert {
    condition = setunion(
      google_project_iam_custom_role.topic.permissions,
      google_project_iam_custom_role.feeds.permissions,
      ) == toset([
        "pubsub.subscriptions.consume",
        "pubsub.subscriptions.create",
        "pubsub.subscriptions.delete",
        "pubsub.subscriptions.list",
        "pubsub.topics.attachSubscription",
        "pubsub.topics.get",
        "pubsub.topics.publish",
    ])
    error_message = "the roles must hold each permission that the pods use, and no other"
  }

  assert {
    condition     = alltrue([for permission in google_project_iam_custom_role.feeds.permissions : startswith(permission, "pubsub.subscriptions.")])
    error_message = "permissions on topics must not be granted on the project"
  }
}

run "grants_name_kubernetes_service_account" {
  assert {
    condition     = output.pods_principal == "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/relay-test.svc.id.goog/subject/ns/pubsub-relay/sa/relay"
    error_message = "the principal must be the service account relay in the namespace pubsub-relay"
  }

  assert {
    condition     = google_pubsub_topic_iam_member.pods[0].member == output.pods_principal && google_project_iam_member.pods[0].member == output.pods_principal
    error_message = "both grants must be to the pods"
  }

  assert {
    condition     = google_pubsub_topic_iam_member.pods[0].topic == google_pubsub_topic.events.id && google_pubsub_topic_iam_member.pods[0].role == google_project_iam_custom_role.topic.id
    error_message = "the topic's role must be granted on the topic"
  }

  assert {
    condition     = google_project_iam_member.pods[0].project == "relay-test" && google_project_iam_member.pods[0].role == google_project_iam_custom_role.feeds.id
    error_message = "the feeds' role must be granted on the project"
  }

  assert {
    condition     = google_container_cluster.this[0].workload_identity_config[0].workload_pool == "relay-test.svc.id.goog"
    error_message = "the cluster must be in the pool that the principal names"
  }
}

run "autoscaler_reads_metrics" {
  assert {
    condition     = google_project_iam_member.metrics_adapter[0].member == "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/relay-test.svc.id.goog/subject/ns/custom-metrics/sa/custom-metrics-stackdriver-adapter"
    error_message = "the principal must be the service account of the adapter's own manifests"
  }

  assert {
    condition     = google_project_iam_member.metrics_adapter[0].role == "roles/monitoring.viewer"
    error_message = "the adapter must only read"
  }
}

run "nodes_have_minimal_permissions" {
  assert {
    condition     = google_container_cluster.this[0].cluster_autoscaling[0].auto_provisioning_defaults[0].service_account == google_service_account.nodes[0].email
    error_message = "nodes must not run as the Compute Engine default account"
  }

  assert {
    condition     = google_project_iam_member.nodes[0].role == "roles/container.defaultNodeServiceAccount"
    error_message = "nodes must have no more than a node needs"
  }

  assert {
    condition     = google_artifact_registry_repository_iam_member.nodes[0].role == "roles/artifactregistry.reader"
    error_message = "nodes must pull images and not push them"
  }
}

run "release_images_are_never_deleted" {
  assert {
    condition     = google_artifact_registry_repository.images.docker_config[0].immutable_tags
    error_message = "a tag must not move to another image"
  }

  assert {
    condition = anytrue([
      for policy in google_artifact_registry_repository.images.cleanup_policies :
      policy.action == "KEEP" && anytrue([for tags in policy.condition : tags.tag_state == "TAGGED" && try(contains(tags.tag_prefixes, "v"), false)])
    ])
    error_message = "images with the tag of a release must be kept"
  }
}

run "default_has_no_image_publisher" {
  command = plan

  assert {
    condition     = length(google_artifact_registry_repository_iam_member.publishers) == 0
    error_message = "without image_publishers no identity may push images"
  }
}

run "named_pipeline_pushes_images" {
  command = plan

  variables {
    image_publishers = ["principalSet://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pipelines/*"]
  }

  assert {
    condition     = alltrue([for grant in google_artifact_registry_repository_iam_member.publishers : grant.role == "roles/artifactregistry.writer"])
    error_message = "publishers must push and not administer"
  }

  assert {
    condition     = length(google_artifact_registry_repository_iam_member.publishers) == 1
    error_message = "the named publisher must have its grant"
  }
}

run "public_publisher_is_refused" {
  command = plan

  variables {
    image_publishers = ["allUsers"]
  }

  expect_failures = [var.image_publishers]
}
