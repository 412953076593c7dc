# The database of the variable postgres: private, replicated, and open to the pods alone.

mock_provider "google" {
  source = "./tests/mocks"
}

variables {
  project_id = "relay-test"
  postgres   = {}
}

run "server_is_private_and_replicated" {
  assert {
    condition = alltrue([
      for settings in google_sql_database_instance.postgres[0].settings :
      settings.availability_type == "REGIONAL" && !settings.ip_configuration[0].ipv4_enabled &&
      settings.ip_configuration[0].ssl_mode == "TRUSTED_CLIENT_CERTIFICATE_REQUIRED"
    ])
    error_message = "the server must have a copy in another zone, no public address, and clients that prove themselves"
  }

  assert {
    condition     = google_compute_global_address.postgres[0].address == "10.30.0.0" && google_compute_global_address.postgres[0].prefix_length == 24
    error_message = "the range must be that of the variable, which the NetworkPolicy names"
  }

  assert {
    condition     = google_sql_database_instance.postgres[0].deletion_protection
    error_message = "Terraform must refuse to delete the database"
  }
}

run "pods_log_in_by_iam" {
  assert {
    condition     = anytrue([for flag in google_sql_database_instance.postgres[0].settings[0].database_flags : flag.name == "cloudsql.iam_authentication" && flag.value == "on"])
    error_message = "the server must take logins by IAM"
  }

  assert {
    condition     = google_service_account_iam_member.postgres[0].member == "serviceAccount:relay-test.svc.id.goog[pubsub-relay/relay]"
    error_message = "only the relay's pods may act as the account"
  }

  assert {
    condition     = keys(google_project_iam_member.postgres) == ["roles/cloudsql.client", "roles/cloudsql.instanceUser"]
    error_message = "the account may connect and log in, and nothing else"
  }

  assert {
    condition     = google_sql_user.postgres[0].type == "CLOUD_IAM_SERVICE_ACCOUNT" && !endswith(google_sql_user.postgres[0].name, ".gserviceaccount.com")
    error_message = "the user must be the account, in the short form of PostgreSQL"
  }

  assert {
    condition     = output.postgres.USER == google_sql_user.postgres[0].name
    error_message = "the output must name the user"
  }
}

run "small_range_is_refused" {
  command = plan

  variables {
    postgres = { range = "10.30.0.0/28" }
  }

  expect_failures = [var.postgres]
}
