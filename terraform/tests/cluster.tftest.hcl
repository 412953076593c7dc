# The cluster is private, regional, kept up by Google, and not deleted by accident.

mock_provider "google" {
  source = "./tests/mocks"
}

variables {
  project_id = "relay-test"
}

run "the_cluster_is_a_private_autopilot_cluster_of_the_region" {
  assert {
    condition     = google_container_cluster.this.enable_autopilot && google_container_cluster.this.location == "europe-west1"
    error_message = "Autopilot, in the region"
  }

  assert {
    condition     = google_container_cluster.this.private_cluster_config[0].enable_private_nodes
    error_message = "nodes must have no public address"
  }

  assert {
    condition     = !google_container_cluster.this.control_plane_endpoints_config[0].ip_endpoints_config[0].enabled
    error_message = "the control plane must have no IP endpoint"
  }

  assert {
    condition     = google_container_cluster.this.control_plane_endpoints_config[0].dns_endpoint_config[0].allow_external_traffic
    error_message = "without an IP endpoint, DNS is the way in"
  }

  assert {
    condition     = google_container_cluster.this.network == google_compute_network.this.id && google_container_cluster.this.subnetwork == google_compute_subnetwork.nodes.id
    error_message = "the cluster must be in its own network"
  }
}

run "pods_and_services_have_ranges_of_their_own" {
  assert {
    condition = [for range in google_compute_subnetwork.nodes.secondary_ip_range : range.range_name] == [
      google_container_cluster.this.ip_allocation_policy[0].cluster_secondary_range_name,
      google_container_cluster.this.ip_allocation_policy[0].services_secondary_range_name,
    ]
    error_message = "the cluster must name ranges that the subnetwork has"
  }

  assert {
    condition     = google_compute_subnetwork.nodes.private_ip_google_access
    error_message = "Google's services must be reached without a public address"
  }

  assert {
    condition     = contains(one(google_compute_router_nat.this.subnetwork[*]).secondary_ip_range_names, "pods")
    error_message = "pods must have a way out"
  }
}

run "the_manifests_find_what_they_need" {
  assert {
    condition     = google_container_cluster.this.gateway_api_config[0].channel == "CHANNEL_STANDARD"
    error_message = "the Gateway API must be there"
  }

  assert {
    condition     = google_container_cluster.this.monitoring_config[0].managed_prometheus[0].enabled
    error_message = "PodMonitoring must be there"
  }

  assert {
    condition     = output.image_repository == "europe-west1-docker.pkg.dev/relay-test/pubsub-relay"
    error_message = "the image's name begins with this"
  }

  assert {
    condition     = output.address_name == "pubsub-relay"
    error_message = "the Gateway names this address"
  }

  assert {
    condition     = output.get_credentials == "gcloud container clusters get-credentials pubsub-relay --project relay-test --location europe-west1 --dns-endpoint"
    error_message = "the command must work as it is"
  }
}

run "front_ends_and_health_checks_reach_the_pods" {
  assert {
    condition     = google_compute_firewall.front_ends.source_ranges == toset(["130.211.0.0/22", "35.191.0.0/16"])
    error_message = "the balancer and its health checks, nobody else"
  }

  assert {
    condition     = one(google_compute_firewall.front_ends.allow).protocol == "tcp" && toset(one(google_compute_firewall.front_ends.allow).ports) == toset(["8080", "9090"])
    error_message = "both the serving port and the one that health checks ask"
  }

  assert {
    condition     = google_compute_firewall.front_ends.network == google_compute_network.this.id && google_compute_firewall.front_ends.target_service_accounts == toset([google_service_account.nodes.email])
    error_message = "the pods run on the nodes of this network"
  }
}

run "clients_speak_modern_tls" {
  assert {
    condition     = google_compute_ssl_policy.gateway.min_tls_version == "TLS_1_2" && google_compute_ssl_policy.gateway.profile == "MODERN"
    error_message = "nothing older than TLS 1.2"
  }

  assert {
    condition     = google_compute_ssl_policy.gateway.name == "pubsub-relay"
    error_message = "the Gateway's policy names it"
  }
}

run "the_cluster_cannot_be_deleted_by_accident" {
  command = plan

  assert {
    condition     = google_container_cluster.this.deletion_protection
    error_message = "deletion protection must be on by default"
  }
}

run "deletion_protection_can_be_lifted" {
  command = plan

  variables {
    deletion_protection = false
  }

  assert {
    condition     = !google_container_cluster.this.deletion_protection
    error_message = "deletion protection must follow the variable"
  }
}

run "upgrades_come_in_the_window" {
  command = plan

  assert {
    condition     = google_container_cluster.this.release_channel[0].channel == "REGULAR"
    error_message = "REGULAR by default"
  }

  assert {
    condition     = google_container_cluster.this.maintenance_policy[0].recurring_window[0].recurrence == "FREQ=WEEKLY;BYDAY=TU,WE,TH"
    error_message = "three nights a week by default"
  }
}

run "a_window_that_gke_refuses_is_refused_here" {
  command = plan

  variables {
    maintenance_window = {
      start_time = "2026-01-06T02:00:00Z"
      end_time   = "2026-01-06T05:00:00Z"
      recurrence = "FREQ=DAILY"
    }
  }

  expect_failures = [var.maintenance_window]
}

run "a_zone_is_no_region" {
  command = plan

  variables {
    region = "europe-west1-b"
  }

  expect_failures = [var.region]
}

run "a_range_that_is_none_is_refused" {
  command = plan

  variables {
    ranges = { nodes = "10.10.0.0", pods = "10.16.0.0/14", services = "10.20.0.0/20" }
  }

  expect_failures = [var.ranges]
}
