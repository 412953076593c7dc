resource "google_artifact_registry_repository" "images" {
  #checkov:skip=CKV_GCP_84:images hold no data of users, and Google's own key encrypts them
  repository_id = local.name
  description   = "Images of the relay."
  location      = var.region
  format        = "DOCKER"

  # A tag cannot move to another image. The first image would then count as untagged and be deleted.
  docker_config {
    immutable_tags = true
  }

  # Deployments name images by digest, and the registry does not know which of them run. So an image
  # for deployment has the tag of a release (docs/DEPLOY.md) and is kept as long as the repository.
  # KEEP wins over both deletions.
  cleanup_policies {
    id     = "keep-releases"
    action = "KEEP"

    condition {
      tag_state    = "TAGGED"
      tag_prefixes = ["v"]
    }
  }

  cleanup_policies {
    id     = "keep-recent"
    action = "KEEP"

    most_recent_versions {
      keep_count = var.images_kept
    }
  }

  # Left by an aborted build, or pushed as a cache.
  cleanup_policies {
    id     = "delete-untagged"
    action = "DELETE"

    condition {
      tag_state  = "UNTAGGED"
      older_than = "604800s" # 7 days
    }
  }

  # Images of branches.
  cleanup_policies {
    id     = "delete-old"
    action = "DELETE"

    condition {
      tag_state  = "ANY"
      older_than = "7776000s" # 90 days
    }
  }

  depends_on = [google_project_service.this]
}

resource "google_artifact_registry_repository_iam_member" "nodes" {
  count = var.gke_enabled ? 1 : 0

  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.name
  role       = "roles/artifactregistry.reader"
  member     = google_service_account.nodes[0].member
}

resource "google_artifact_registry_repository_iam_member" "publishers" {
  for_each = var.image_publishers

  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.name
  role       = "roles/artifactregistry.writer"
  member     = each.value
}
