# Each runtime outside GKE exists only behind its switch, drains in the time that it gets, and runs
# with the permissions of the pods.

mock_provider "google" {
  source = "./tests/mocks"
}

variables {
  project_id = "relay-test"
}

run "default_has_only_gke" {
  command = plan

  assert {
    condition = length(concat(
      google_cloud_run_v2_service.this,
      google_compute_region_instance_group_manager.this,
      google_compute_global_forwarding_rule.this,
      google_app_engine_flexible_app_version.this,
      google_service_account.pods,
    )) == 0 && length(google_container_cluster.this) == 1
    error_message = "by default there must be the cluster and no other runtime"
  }
}

run "cloud_run_keeps_feeds_and_drains_in_ten_seconds" {
  variables {
    gke_enabled = false
    cloud_run   = {}
    pods = {
      image    = "europe-west1-docker.pkg.dev/relay-test/pubsub-relay/relay:v0.1.0"
      settings = { RELAY_JWT_JWKS = "https://login.example.com/jwks.json", RELAY_JWT_AUDIENCE = "relay" }
    }
  }

  assert {
    condition     = length(google_container_cluster.this) == 0 && length(google_service_account.nodes) == 0 && !contains(keys(google_project_service.this), "container.googleapis.com")
    error_message = "without gke_enabled there must be no cluster"
  }

  assert {
    condition     = google_cloud_run_v2_service.this[0].template[0].scaling[0].min_instance_count == 2
    error_message = "instances must stay when there is no client"
  }

  assert {
    condition     = google_cloud_run_v2_service.this[0].template[0].containers[0].resources[0].cpu_idle == false
    error_message = "CPU must be allocated between requests"
  }

  assert {
    condition     = google_cloud_run_v2_service.this[0].template[0].timeout == "3600s"
    error_message = "a WebSocket must last an hour"
  }

  assert {
    condition     = google_cloud_run_v2_service.this[0].template[0].containers[0].startup_probe[0].http_get[0].path == "/readyz" && google_cloud_run_v2_service.this[0].template[0].containers[0].liveness_probe[0].http_get[0].path == "/livez"
    error_message = "an instance must be ready before it gets clients, and an outage must not restart it"
  }

  assert {
    condition = sum([
      for setting in google_cloud_run_v2_service.this[0].template[0].containers[0].env :
      tonumber(trimsuffix(setting.value, "s")) if contains(["RELAY_DRAIN_DELAY", "RELAY_DRAIN_SPREAD"], setting.name)
    ]) < 5
    error_message = "the drain must end within the 10 seconds that Cloud Run gives"
  }

  assert {
    condition = anytrue([
      for setting in google_cloud_run_v2_service.this[0].template[0].containers[0].env :
      setting.name == "RELAY_MAX_CONNECTIONS" && setting.value == "1000"
    ]) && google_cloud_run_v2_service.this[0].template[0].max_instance_request_concurrency == 1000
    error_message = "the pod and Cloud Run must have the same limit of connections"
  }

  assert {
    condition     = google_cloud_run_v2_service_iam_member.clients[0].member == "allUsers" && google_cloud_run_v2_service_iam_member.clients[0].role == "roles/run.invoker"
    error_message = "the pods check tokens, so clients must reach them"
  }

  assert {
    condition     = google_cloud_run_v2_service.this[0].deletion_protection
    error_message = "deletion protection must be on by default"
  }
}

run "runtimes_have_permissions_of_pods" {
  variables {
    gke_enabled = false
    cloud_run   = {}
    pods        = { image = "europe-west1-docker.pkg.dev/relay-test/pubsub-relay/relay:v0.1.0" }
  }

  assert {
    condition     = google_cloud_run_v2_service.this[0].template[0].service_account == google_service_account.pods[0].email
    error_message = "the service must run as the account of the pods"
  }

  assert {
    condition     = google_pubsub_topic_iam_member.runtimes[0].role == google_project_iam_custom_role.topic.id && google_pubsub_topic_iam_member.runtimes[0].member == google_service_account.pods[0].member
    error_message = "the account must have the topic's role on the topic"
  }

  assert {
    condition     = toset([for grant in google_project_iam_member.runtimes : grant.role]) == toset([google_project_iam_custom_role.feeds.id, "roles/logging.logWriter", "roles/monitoring.metricWriter"])
    error_message = "the account must have the feeds' role, may log and send metrics, and nothing more"
  }
}

run "compute_engine_has_drain_of_gke" {
  variables {
    gke_enabled    = false
    domain         = "relay.example.com"
    compute_engine = {}
    pods           = { image = "europe-west1-docker.pkg.dev/relay-test/pubsub-relay/relay:v0.1.0" }
  }

  assert {
    condition     = google_compute_backend_service.this[0].timeout_sec == 86400 && google_compute_backend_service.this[0].connection_draining_timeout_sec == 90
    error_message = "the balancer must have the times of k8s/overlays/gke"
  }

  assert {
    condition     = strcontains(google_compute_instance_template.this[0].metadata["shutdown-script"], "docker stop --time 88 relay")
    error_message = "a machine that stops must drain its pod"
  }

  assert {
    condition     = strcontains(google_compute_instance_template.this[0].metadata["user-data"], "RELAY_DRAIN_DEADLINE=70s") && startswith(google_compute_instance_template.this[0].metadata["user-data"], "#cloud-config\n")
    error_message = "the pod must have its settings"
  }

  assert {
    condition     = can(yamldecode(google_compute_instance_template.this[0].metadata["user-data"]).write_files[1].path)
    error_message = "cloud-init must be able to read its file"
  }

  assert {
    condition     = google_compute_health_check.ready[0].http_health_check[0].request_path == "/readyz" && google_compute_health_check.ready[0].check_interval_sec * google_compute_health_check.ready[0].unhealthy_threshold + google_compute_health_check.ready[0].timeout_sec <= 15
    error_message = "the balancer must notice within RELAY_DRAIN_DELAY"
  }

  assert {
    condition     = google_compute_health_check.alive[0].http_health_check[0].request_path == "/livez"
    error_message = "an outage of Pub/Sub must not replace machines"
  }

  assert {
    condition     = google_compute_firewall.machines[0].source_ranges == toset(["130.211.0.0/22", "35.191.0.0/16"]) && google_compute_firewall.machines[0].target_service_accounts == toset([google_service_account.pods[0].email])
    error_message = "only the load balancer and its health checks may connect"
  }

  assert {
    condition     = google_compute_target_https_proxy.this[0].ssl_policy == google_compute_ssl_policy.gateway.id
    error_message = "TLS older than 1.2 must be refused"
  }
}

run "app_engine_asks_the_port_of_clients" {
  variables {
    gke_enabled = false
    app_engine  = { location = "europe-west" }
    pods        = { image = "europe-west1-docker.pkg.dev/relay-test/pubsub-relay/relay:v0.1.0" }
  }

  assert {
    condition     = google_app_engine_flexible_app_version.this[0].env_variables["RELAY_ADMIN_LISTEN"] == "" && google_app_engine_flexible_app_version.this[0].readiness_check[0].path == "/readyz"
    error_message = "the probes must answer on the port of the clients"
  }

  assert {
    condition     = google_app_engine_flexible_app_version.this[0].automatic_scaling[0].min_total_instances == 2
    error_message = "one instance may restart while the other serves"
  }

  assert {
    condition     = google_app_engine_application.this[0].location_id == "europe-west"
    error_message = "the application must be where the variable says"
  }
}

run "runtime_without_pods_is_refused" {
  command = plan

  variables {
    cloud_run = {}
  }

  expect_failures = [var.cloud_run]
}

run "cloud_run_without_instances_is_refused" {
  command = plan

  variables {
    cloud_run = { min_instances = 0 }
    pods      = { image = "europe-west1-docker.pkg.dev/relay-test/pubsub-relay/relay:v0.1.0" }
  }

  expect_failures = [var.cloud_run]
}

run "two_owners_of_address_are_refused" {
  command = plan

  variables {
    domain         = "relay.example.com"
    compute_engine = {}
    pods           = { image = "europe-west1-docker.pkg.dev/relay-test/pubsub-relay/relay:v0.1.0" }
  }

  expect_failures = [var.compute_engine]
}

run "image_that_moves_is_refused" {
  command = plan

  variables {
    pods = { image = "europe-west1-docker.pkg.dev/relay-test/pubsub-relay/relay:latest" }
  }

  expect_failures = [var.pods]
}

run "secret_in_settings_is_refused" {
  command = plan

  variables {
    pods = {
      image    = "europe-west1-docker.pkg.dev/relay-test/pubsub-relay/relay:v0.1.0"
      settings = { RELAY_JWT_SECRET = "0123456789abcdef0123456789abcdef" }
    }
  }

  expect_failures = [var.pods]
}

run "database_without_gke_is_refused" {
  command = plan

  variables {
    gke_enabled = false
    postgres    = {}
  }

  expect_failures = [var.gke_enabled]
}
