# Who may do what: the pods exactly what they need, everybody else nothing.

mock_provider "google" {
  source = "./tests/mocks"
}

variables {
  project_id = "relay-test"
}

run "pods_may_do_exactly_what_they_do" {
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
    error_message = "the whole project is no place for permissions on topics"
  }
}

run "pods_are_their_kubernetes_service_account" {
  assert {
    condition     = output.pods_principal == "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/relay-test.svc.id.goog/subject/ns/pubsub-relay/sa/relay"
    error_message = "the principal must be the service account relay in the namespace pubsub-relay"
  }

  assert {
    condition     = google_pubsub_topic_iam_member.pods.member == output.pods_principal && google_project_iam_member.pods.member == output.pods_principal
    error_message = "both grants must be to the pods"
  }

  assert {
    condition     = google_pubsub_topic_iam_member.pods.topic == google_pubsub_topic.events.id && google_pubsub_topic_iam_member.pods.role == google_project_iam_custom_role.topic.id
    error_message = "the topic's role must be granted on the topic"
  }

  assert {
    condition     = google_project_iam_member.pods.project == "relay-test" && google_project_iam_member.pods.role == google_project_iam_custom_role.feeds.id
    error_message = "the feeds' role must be granted on the project"
  }

  assert {
    condition     = google_container_cluster.this.workload_identity_config[0].workload_pool == "relay-test.svc.id.goog"
    error_message = "the cluster must be in the pool that the principal names"
  }
}

run "the_autoscaler_may_read_metrics" {
  assert {
    condition     = google_project_iam_member.metrics_adapter.member == "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/relay-test.svc.id.goog/subject/ns/custom-metrics/sa/custom-metrics-stackdriver-adapter"
    error_message = "the Custom Metrics Stackdriver Adapter must be named as its manifests name it"
  }

  assert {
    condition     = google_project_iam_member.metrics_adapter.role == "roles/monitoring.viewer"
    error_message = "the adapter reads"
  }
}

run "nodes_log_measure_and_pull" {
  assert {
    condition     = google_container_cluster.this.cluster_autoscaling[0].auto_provisioning_defaults[0].service_account == google_service_account.nodes.email
    error_message = "nodes must not run as the Compute Engine default account"
  }

  assert {
    condition     = google_project_iam_member.nodes.role == "roles/container.defaultNodeServiceAccount"
    error_message = "nodes must have no more than a node needs"
  }

  assert {
    condition     = google_artifact_registry_repository_iam_member.nodes.role == "roles/artifactregistry.reader"
    error_message = "nodes pull, they do not push"
  }
}

run "what_may_run_is_never_cleaned_up" {
  assert {
    condition     = google_artifact_registry_repository.images.docker_config[0].immutable_tags
    error_message = "a tag must not move away from the image that runs"
  }

  assert {
    condition = anytrue([
      for policy in google_artifact_registry_repository.images.cleanup_policies :
      policy.action == "KEEP" && anytrue([for tags in policy.condition : tags.tag_state == "TAGGED" && try(contains(tags.tag_prefixes, "v"), false)])
    ])
    error_message = "images with the tag of a release must be kept"
  }
}

run "nobody_pushes_images_unless_named" {
  command = plan

  assert {
    condition     = length(google_artifact_registry_repository_iam_member.publishers) == 0
    error_message = "no publisher was named"
  }
}

run "a_named_pipeline_pushes_images" {
  command = plan

  variables {
    image_publishers = ["principalSet://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pipelines/*"]
  }

  assert {
    condition     = alltrue([for grant in google_artifact_registry_repository_iam_member.publishers : grant.role == "roles/artifactregistry.writer"])
    error_message = "publishers push, they do not administer"
  }

  assert {
    condition     = length(google_artifact_registry_repository_iam_member.publishers) == 1
    error_message = "the named publisher must be granted"
  }
}

run "everybody_as_publisher_is_refused" {
  command = plan

  variables {
    image_publishers = ["allUsers"]
  }

  expect_failures = [var.image_publishers]
}
