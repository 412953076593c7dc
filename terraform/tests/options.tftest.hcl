# Each optional part exists completely, or not at all.

mock_provider "google" {
  source = "./tests/mocks"
}

variables {
  project_id = "relay-test"
}

run "default_has_no_optional_part" {
  assert {
    condition = length(concat(
      google_certificate_manager_certificate_map.gateway,
      google_certificate_manager_certificate_map_entry.gateway,
      google_certificate_manager_certificate.gateway,
      google_certificate_manager_dns_authorization.gateway,
      google_billing_budget.pubsub,
      google_kms_key_ring.this,
      google_secret_manager_secret.control,
      google_sql_database_instance.postgres,
      google_service_account.postgres,
    )) == 0
    error_message = "by default there must be no certificate, no budget, no key, no database and no secret"
  }

  assert {
    condition     = length(google_dns_record_set.this) == 0 && length(google_monitoring_notification_channel.email) == 0
    error_message = "by default there must be no DNS records and no e-mails"
  }

  assert {
    condition     = output.certificate_map == null && length(output.dns_records) == 0
    error_message = "without a domain both outputs must be empty"
  }

  assert {
    condition     = length(google_project_service.this) == 7
    error_message = "only used services must be enabled"
  }
}

run "domain_has_certificate_and_record_output" {
  variables {
    domain = "relay.example.com"
  }

  assert {
    condition     = tolist(google_certificate_manager_certificate.gateway[0].managed[0].domains) == tolist(["relay.example.com"])
    error_message = "the certificate must be for the domain"
  }

  assert {
    condition     = tolist(google_certificate_manager_certificate.gateway[0].managed[0].dns_authorizations) == tolist([google_certificate_manager_dns_authorization.gateway[0].id])
    error_message = "the certificate must use the proof by DNS"
  }

  assert {
    condition     = google_certificate_manager_certificate_map_entry.gateway[0].map == output.certificate_map && output.certificate_map == "pubsub-relay"
    error_message = "the entry must be in the map that the Gateway names"
  }

  assert {
    condition     = google_certificate_manager_certificate_map_entry.gateway[0].certificates == tolist([google_certificate_manager_certificate.gateway[0].id])
    error_message = "the entry must have the certificate"
  }

  assert {
    condition     = output.dns_records.address == { name = "relay.example.com.", type = "A", data = "192.0.2.1" }
    error_message = "the domain must point at the static address"
  }

  assert {
    condition     = output.dns_records.certificate.name == "_acme-challenge.relay.example.com."
    error_message = "the output must contain the proof"
  }

  assert {
    condition     = length(google_dns_record_set.this) == 0
    error_message = "without a zone nothing is entered"
  }
}

run "zone_holds_domain_records" {
  variables {
    domain   = "relay.example.com"
    dns_zone = "example-com"
  }

  assert {
    condition     = google_dns_record_set.this["address"].rrdatas == tolist(["192.0.2.1"]) && google_dns_record_set.this["address"].managed_zone == "example-com"
    error_message = "the address must be in the zone"
  }

  assert {
    condition     = google_dns_record_set.this["certificate"].type == "CNAME" && length(google_dns_record_set.this) == 2
    error_message = "the proof must be in the zone"
  }
}

run "zone_without_domain_is_refused" {
  command = plan

  variables {
    dns_zone = "example-com"
  }

  expect_failures = [var.dns_zone]
}

run "domain_with_final_dot_is_refused" {
  command = plan

  variables {
    domain = "relay.example.com."
  }

  expect_failures = [var.domain]
}

run "budget_watches_pubsub_of_project" {
  variables {
    alert_emails = ["on-call@example.com"]
    budget       = { billing_account = "012345-6789AB-CDEF01", monthly_amount = 500 }
  }

  assert {
    condition     = google_billing_budget.pubsub[0].budget_filter[0].projects == toset(["projects/123456789012"])
    error_message = "the budget must be for this project"
  }

  assert {
    condition     = google_billing_budget.pubsub[0].amount[0].specified_amount[0].units == "500"
    error_message = "the amount must be that of the variable"
  }

  assert {
    condition     = google_billing_budget.pubsub[0].all_updates_rule[0].monitoring_notification_channels == tolist([google_monitoring_notification_channel.email["on-call@example.com"].id])
    error_message = "the recipients of alerts must get budget warnings"
  }
}

run "control_secret_stays_in_region" {
  variables {
    region                 = "europe-west4"
    control_secret_enabled = true
  }

  assert {
    condition     = output.control_secret == "pubsub-relay-control"
    error_message = "the output must name the secret"
  }

  assert {
    condition     = google_secret_manager_secret.control[0].replication[0].user_managed[0].replicas[0].location == "europe-west4"
    error_message = "the secret must stay in the region"
  }

  assert {
    condition     = contains(keys(google_project_service.this), "secretmanager.googleapis.com")
    error_message = "the service of the secret must be enabled"
  }
}

run "budget_of_zero_is_refused" {
  command = plan

  variables {
    budget = { billing_account = "012345-6789AB-CDEF01", monthly_amount = 0 }
  }

  expect_failures = [var.budget]
}

run "invalid_label_is_refused" {
  command = plan

  variables {
    labels = { Team = "Messaging" }
  }

  expect_failures = [var.labels]
}
