# What is optional is all there, or not at all.

mock_provider "google" {
  source = "./tests/mocks"
}

variables {
  project_id = "relay-test"
}

run "nothing_optional_by_default" {
  assert {
    condition = length(concat(
      google_certificate_manager_certificate_map.gateway,
      google_certificate_manager_certificate_map_entry.gateway,
      google_certificate_manager_certificate.gateway,
      google_certificate_manager_dns_authorization.gateway,
      google_billing_budget.pubsub,
      google_kms_key_ring.this,
    )) == 0
    error_message = "neither certificate, nor budget, nor key was asked for"
  }

  assert {
    condition     = length(google_dns_record_set.this) == 0 && length(google_monitoring_notification_channel.email) == 0
    error_message = "neither records nor e-mails were asked for"
  }

  assert {
    condition     = output.certificate_map == null && length(output.dns_records) == 0
    error_message = "without a domain there is nothing to tell of it"
  }

  assert {
    condition     = length(google_project_service.this) == 7
    error_message = "only the services that are used"
  }
}

run "a_domain_has_a_certificate_and_tells_its_records" {
  variables {
    domain = "relay.example.com"
  }

  assert {
    condition     = tolist(google_certificate_manager_certificate.gateway[0].managed[0].domains) == tolist(["relay.example.com"])
    error_message = "the certificate must be for the domain"
  }

  assert {
    condition     = tolist(google_certificate_manager_certificate.gateway[0].managed[0].dns_authorizations) == tolist([google_certificate_manager_dns_authorization.gateway[0].id])
    error_message = "the certificate must be proved by DNS"
  }

  assert {
    condition     = google_certificate_manager_certificate_map_entry.gateway[0].map == output.certificate_map && output.certificate_map == "pubsub-relay"
    error_message = "the Gateway names the map that has the entry"
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
    error_message = "the proof must be told"
  }

  assert {
    condition     = length(google_dns_record_set.this) == 0
    error_message = "without a zone nothing is entered"
  }
}

run "a_zone_has_the_records" {
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

run "a_zone_without_a_domain_is_refused" {
  command = plan

  variables {
    dns_zone = "example-com"
  }

  expect_failures = [var.dns_zone]
}

run "a_domain_with_a_final_dot_is_refused" {
  command = plan

  variables {
    domain = "relay.example.com."
  }

  expect_failures = [var.domain]
}

run "a_budget_watches_pubsub_in_this_project" {
  variables {
    alert_emails = ["on-call@example.com"]
    budget       = { billing_account = "012345-6789AB-CDEF01", monthly_amount = 500 }
  }

  assert {
    condition     = google_billing_budget.pubsub[0].budget_filter[0].projects == toset(["projects/123456789012"])
    error_message = "the budget must be this project's"
  }

  assert {
    condition     = google_billing_budget.pubsub[0].amount[0].specified_amount[0].units == "500"
    error_message = "the amount must be as asked"
  }

  assert {
    condition     = google_billing_budget.pubsub[0].all_updates_rule[0].monitoring_notification_channels == tolist([google_monitoring_notification_channel.email["on-call@example.com"].id])
    error_message = "whom alerts write to hears of the budget"
  }
}

run "a_budget_of_nothing_is_refused" {
  command = plan

  variables {
    budget = { billing_account = "012345-6789AB-CDEF01", monthly_amount = 0 }
  }

  expect_failures = [var.budget]
}

run "a_label_that_google_refuses_is_refused" {
  command = plan

  variables {
    labels = { Team = "Messaging" }
  }

  expect_failures = [var.labels]
}
