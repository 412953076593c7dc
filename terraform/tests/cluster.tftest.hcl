# The cluster is private and regional. Google upgrades it, and it cannot be deleted by accident.

mock_provider "google" {
  source = "./tests/mocks"
}

variables {
  project_id = "relay-test"
}

run "cluster_is_regional_private_autopilot" {
  assert {
    condition     = google_container_cluster.this[0].enable_autopilot && google_container_cluster.this[0].location == "europe-west1"
    error_message = "the cluster must be an Autopilot cluster in the region"
  }

  assert {
    condition     = google_container_cluster.this[0].private_cluster_config[0].enable_private_nodes
    error_message = "nodes must have no public address"
  }

  assert {
    condition     = !google_container_cluster.this[0].control_plane_endpoints_config[0].ip_endpoints_config[0].enabled
    error_message = "the control plane must have no IP endpoint"
  }

  assert {
    condition     = google_container_cluster.this[0].control_plane_endpoints_config[0].dns_endpoint_config[0].allow_external_traffic
    error_message = "without an IP endpoint, the DNS endpoint must be reachable"
  }

  assert {
    condition     = google_container_cluster.this[0].network == google_compute_network.this.id && google_container_cluster.this[0].subnetwork == google_compute_subnetwork.nodes.id
    error_message = "the cluster must be in its own network"
  }
}

run "pods_and_services_have_own_ranges" {
  assert {
    condition = [for range in google_compute_subnetwork.nodes.secondary_ip_range : range.range_name] == [
      google_container_cluster.this[0].ip_allocation_policy[0].cluster_secondary_range_name,
      google_container_cluster.this[0].ip_allocation_policy[0].services_secondary_range_name,
    ]
    error_message = "the cluster must name ranges that the subnetwork has"
  }

  assert {
    condition     = google_compute_subnetwork.nodes.private_ip_google_access
    error_message = "nodes must reach Google's services without a public address"
  }

  assert {
    condition     = contains(one(google_compute_router_nat.this.subnetwork[*]).secondary_ip_range_names, "pods")
    error_message = "pods must have a way out"
  }
}

run "manifests_find_required_features" {
  assert {
    condition     = google_container_cluster.this[0].gateway_api_config[0].channel == "CHANNEL_STANDARD"
    error_message = "the Gateway API must be enabled"
  }

  assert {
    condition     = google_container_cluster.this[0].monitoring_config[0].managed_prometheus[0].enabled
    error_message = "Managed Prometheus must be enabled for PodMonitoring"
  }

  assert {
    condition     = output.image_repository == "europe-west1-docker.pkg.dev/relay-test/pubsub-relay"
    error_message = "the image's name must begin with this"
  }

  assert {
    condition     = output.address_name == "pubsub-relay"
    error_message = "the address must have the name that the Gateway uses"
  }

  assert {
    condition     = output.get_credentials == "gcloud container clusters get-credentials pubsub-relay --project relay-test --location europe-west1 --dns-endpoint"
    error_message = "the command must work unchanged"
  }
}

run "front_ends_and_health_checks_reach_the_pods" {
  assert {
    condition     = google_compute_firewall.front_ends[0].source_ranges == toset(["130.211.0.0/22", "35.191.0.0/16"])
    error_message = "only the load balancer and its health checks may connect"
  }

  assert {
    condition     = one(google_compute_firewall.front_ends[0].allow).protocol == "tcp" && toset(one(google_compute_firewall.front_ends[0].allow).ports) == toset(["8080", "9090"])
    error_message = "both the serving port and the one that health checks ask"
  }

  assert {
    condition     = google_compute_firewall.front_ends[0].network == google_compute_network.this.id && google_compute_firewall.front_ends[0].target_service_accounts == toset([google_service_account.nodes[0].email])
    error_message = "the firewall must apply to the nodes of this network"
  }
}

run "gateway_requires_modern_tls" {
  assert {
    condition     = google_compute_ssl_policy.gateway.min_tls_version == "TLS_1_2" && google_compute_ssl_policy.gateway.profile == "MODERN"
    error_message = "TLS older than 1.2 must be refused"
  }

  assert {
    condition     = google_compute_ssl_policy.gateway.name == "pubsub-relay"
    error_message = "the policy must have the name that GCPGatewayPolicy uses"
  }
}

run "cluster_is_protected_from_deletion" {
  command = plan

  assert {
    condition     = google_container_cluster.this[0].deletion_protection
    error_message = "deletion protection must be on by default"
  }
}

run "deletion_protection_can_be_lifted" {
  command = plan

  variables {
    deletion_protection = false
  }

  assert {
    condition     = !google_container_cluster.this[0].deletion_protection
    error_message = "deletion protection must follow the variable"
  }
}

run "upgrades_come_in_window" {
  command = plan

  assert {
    condition     = google_container_cluster.this[0].release_channel[0].channel == "REGULAR"
    error_message = "the channel must be REGULAR by default"
  }

  assert {
    condition     = google_container_cluster.this[0].maintenance_policy[0].recurring_window[0].recurrence == "FREQ=WEEKLY;BYDAY=TU,WE,TH"
    error_message = "the window must be three nights a week by default"
  }
}

run "window_below_four_hours_is_refused" {
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

run "zone_as_region_is_refused" {
  command = plan

  variables {
    region = "europe-west1-b"
  }

  expect_failures = [var.region]
}

run "malformed_range_is_refused" {
  command = plan

  variables {
    ranges = { nodes = "10.10.0.0", pods = "10.16.0.0/14", services = "10.20.0.0/20" }
  }

  expect_failures = [var.ranges]
}
