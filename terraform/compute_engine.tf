# One pod on each machine of a regional group, behind Google's external load balancer.
locals {
  # The times of k8s/base and k8s/overlays/gke: the drain fits into the 90 s that a machine gets.
  machine_grace = 90

  machine_settings = merge(local.pod_settings, {
    RELAY_LISTEN         = "0.0.0.0:${local.ports.http}"
    RELAY_ADMIN_LISTEN   = "0.0.0.0:${local.ports.admin}"
    RELAY_DRAIN_DELAY    = "15s"
    RELAY_DRAIN_SPREAD   = "40s"
    RELAY_DRAIN_DEADLINE = "70s"
  })

  # Container-Optimized OS reads it at each start. The unit pulls with the machine's own identity.
  cloud_init = var.pods == null ? "" : join("\n", ["#cloud-config", yamlencode({
    write_files = [
      {
        path        = "/etc/relay.env"
        permissions = "0644"
        content     = join("", [for name, value in local.machine_settings : "${name}=${value}\n"])
      },
      {
        path        = "/etc/systemd/system/relay.service"
        permissions = "0644"
        content     = <<-UNIT
          [Unit]
          Wants=gcr-online.target
          After=gcr-online.target

          [Service]
          Environment=HOME=/home/relay
          ExecStartPre=/usr/bin/docker-credential-gcr configure-docker --registries ${var.region}-docker.pkg.dev
          ExecStart=/usr/bin/docker run --rm --name relay --network host --read-only --cap-drop ALL --log-driver gcplogs --env-file /etc/relay.env ${var.pods.image}
          ExecStop=/usr/bin/docker stop --time ${local.machine_grace - 2} relay
          TimeoutStopSec=${local.machine_grace}
          Restart=always
        UNIT
      },
    ]
    # The host firewall of Container-Optimized OS lets only SSH in by itself.
    runcmd = concat(
      [for port in values(local.ports) : "iptables -w -A INPUT -p tcp --dport ${port} -j ACCEPT"],
      ["mkdir -p /home/relay", "systemctl daemon-reload", "systemctl start relay.service"],
    )
  })])

  # A stop or a deletion gives 90 s. `docker stop` sends SIGTERM and waits for the drain.
  shutdown_script = "#!/bin/sh\nexec docker stop --time ${local.machine_grace - 2} relay\n"
}

resource "google_compute_instance_template" "this" {
  count = local.runtimes.compute_engine

  name_prefix  = "${local.name}-"
  description  = "A pod of the relay on Container-Optimized OS."
  machine_type = var.compute_engine.machine_type
  labels       = local.labels

  disk {
    source_image = "projects/cos-cloud/global/images/family/cos-stable"
    boot         = true
    auto_delete  = true
    disk_type    = "pd-balanced"
  }

  network_interface {
    subnetwork = google_compute_subnetwork.nodes.id
  }

  metadata = {
    user-data              = local.cloud_init
    shutdown-script        = local.shutdown_script
    google-logging-enabled = "true"
    block-project-ssh-keys = "true"
    enable-oslogin         = "true"
  }

  service_account {
    email  = google_service_account.pods[0].email
    scopes = ["https://www.googleapis.com/auth/cloud-platform"]
  }

  shielded_instance_config {
    enable_secure_boot          = true
    enable_vtpm                 = true
    enable_integrity_monitoring = true
  }

  lifecycle {
    create_before_destroy = true
  }
}

# For the balancer: is the pod ready?
resource "google_compute_health_check" "ready" {
  count = local.runtimes.compute_engine

  name                = "${local.name}-ready"
  description         = "Whether a pod may get clients."
  check_interval_sec  = local.health.interval
  timeout_sec         = local.health.timeout
  unhealthy_threshold = local.health.unhealthy
  healthy_threshold   = local.health.healthy

  http_health_check {
    port         = local.ports.admin
    request_path = "/readyz"
  }

  depends_on = [google_project_service.this]
}

# For the group: does the machine's pod answer at all? An outage of Pub/Sub must not replace machines.
resource "google_compute_health_check" "alive" {
  count = local.runtimes.compute_engine

  name                = "${local.name}-alive"
  description         = "Whether a machine must be replaced."
  check_interval_sec  = 20
  timeout_sec         = 5
  unhealthy_threshold = 3

  http_health_check {
    port         = local.ports.admin
    request_path = "/livez"
  }

  depends_on = [google_project_service.this]
}

resource "google_compute_region_instance_group_manager" "this" {
  count = local.runtimes.compute_engine

  name               = local.name
  description        = "The machines of the pods."
  base_instance_name = local.service_account
  region             = var.region

  version {
    instance_template = google_compute_instance_template.this[0].self_link_unique
  }

  named_port {
    name = "http"
    port = local.ports.http
  }

  auto_healing_policies {
    health_check = google_compute_health_check.alive[0].id
    # A machine starts, pulls the image and reads the replay window.
    initial_delay_sec = 180
  }

  # Never fewer pods than there were. A regional group changes one machine of each zone at a time.
  update_policy {
    type                         = "PROACTIVE"
    minimal_action               = "REPLACE"
    instance_redistribution_type = "PROACTIVE"
    max_surge_fixed              = 3
    max_unavailable_fixed        = 0
  }

  # The image and the identity must be usable before the first machine starts.
  depends_on = [
    google_artifact_registry_repository_iam_member.runtimes,
    google_project_iam_member.runtimes,
    google_pubsub_topic_iam_member.runtimes,
  ]
}

resource "google_compute_region_autoscaler" "this" {
  count = local.runtimes.compute_engine

  name   = local.name
  region = var.region
  target = google_compute_region_instance_group_manager.this[0].id

  autoscaling_policy {
    min_replicas    = var.compute_engine.min_instances
    max_replicas    = var.compute_engine.max_instances
    cooldown_period = 120

    # The other 40 % are for clients that come back from a pod that ends, as on GKE.
    cpu_utilization {
      target = 0.60
    }

    # One machine in 5 minutes: its clients must have settled before the next one ends.
    scale_in_control {
      time_window_sec = 300

      max_scaled_in_replicas {
        fixed = 1
      }
    }
  }
}

# Google's front ends and health checks, as for the nodes of GKE (network.tf).
resource "google_compute_firewall" "machines" {
  count = local.runtimes.compute_engine

  name                    = "${local.name}-machines"
  description             = "From Google's front ends and health checks to the ports of the pods."
  network                 = google_compute_network.this.id
  direction               = "INGRESS"
  source_ranges           = ["130.211.0.0/22", "35.191.0.0/16"]
  target_service_accounts = [google_service_account.pods[0].email]

  allow {
    protocol = "tcp"
    ports    = [for port in values(local.ports) : tostring(port)]
  }
}

resource "google_compute_backend_service" "this" {
  count = local.runtimes.compute_engine

  name                  = local.name
  description           = "The pods."
  protocol              = "HTTP"
  port_name             = "http"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  health_checks         = [google_compute_health_check.ready[0].id]

  # As in k8s/overlays/gke: the whole time of a WebSocket, and the time for which connections stay
  # open after their machine has left.
  timeout_sec                     = 86400
  connection_draining_timeout_sec = local.machine_grace

  backend {
    group           = google_compute_region_instance_group_manager.this[0].instance_group
    balancing_mode  = "UTILIZATION"
    capacity_scaler = 1
  }
}

resource "google_compute_url_map" "this" {
  count = local.runtimes.compute_engine

  name            = local.name
  description     = "Every path leads to the pods."
  default_service = google_compute_backend_service.this[0].id
}

resource "google_compute_target_https_proxy" "this" {
  count = local.runtimes.compute_engine

  name            = local.name
  url_map         = google_compute_url_map.this[0].id
  ssl_policy      = google_compute_ssl_policy.gateway.id
  certificate_map = "//certificatemanager.googleapis.com/${google_certificate_manager_certificate_map.gateway[0].id}"
}

# There is no rule for port 80: tokens are never sent in the clear.
resource "google_compute_global_forwarding_rule" "this" {
  count = local.runtimes.compute_engine

  name                  = local.name
  description           = "Clients reach the pods here."
  load_balancing_scheme = "EXTERNAL_MANAGED"
  ip_address            = google_compute_global_address.gateway.id
  port_range            = "443"
  target                = google_compute_target_https_proxy.this[0].id
}
