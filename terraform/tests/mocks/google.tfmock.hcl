# Answers of the mocked provider that the configuration reads.

mock_data "google_project" {
  defaults = {
    number = "123456789012"
  }
}

mock_resource "google_compute_global_address" {
  defaults = {
    address = "192.0.2.1"
  }
}

mock_resource "google_certificate_manager_dns_authorization" {
  defaults = {
    dns_resource_record = [{
      name = "_acme-challenge.relay.example.com."
      type = "CNAME"
      data = "proof.authorize.example."
    }]
  }
}
