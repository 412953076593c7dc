# What wakes somebody, and whom.

mock_provider "google" {
  source = "./tests/mocks"
}

variables {
  project_id   = "relay-test"
  alert_emails = ["b@example.com", "a@example.com"]
}

run "every_alert_reaches_everybody_and_says_what_to_do" {
  assert {
    condition = toset(keys(google_monitoring_alert_policy.this)) == toset([
      "feed-lag", "gaps", "most-pods", "not-ready", "orphan-feeds", "publish-failures", "slow-delivery", "slow-ends", "subscription-limit",
    ])
    error_message = "an alert is missing or new: docs/OPERATIONS.md has a paragraph for each"
  }

  assert {
    condition     = alltrue([for policy in google_monitoring_alert_policy.this : length(policy.notification_channels) == 2])
    error_message = "each alert must be sent to everybody"
  }

  assert {
    condition     = alltrue([for policy in google_monitoring_alert_policy.this : length(policy.documentation[0].content) > 80])
    error_message = "each alert must say what to do"
  }
}

run "alerts_can_be_made_before_the_first_pod" {
  assert {
    condition     = alltrue([for policy in google_monitoring_alert_policy.this : policy.conditions[0].condition_prometheus_query_language[0].disable_metric_validation])
    error_message = "the metrics come after the alerts"
  }
}

run "alerts_look_at_our_pods_only" {
  assert {
    condition = alltrue([
      for name, policy in google_monitoring_alert_policy.this :
      strcontains(policy.conditions[0].condition_prometheus_query_language[0].query, "cluster='pubsub-relay',namespace='pubsub-relay'")
      if name != "subscription-limit"
    ])
    error_message = "an alert counts the pods of others"
  }
}

run "feeds_are_told_by_their_topic" {
  variables {
    topic_id = "other-events"
  }

  assert {
    condition     = strcontains(google_monitoring_alert_policy.this["orphan-feeds"].conditions[0].condition_prometheus_query_language[0].query, "subscription_id=~'other-events[.].*'")
    error_message = "feeds are named after their topic"
  }
}

run "the_dashboard_charts_every_metric_once_named" {
  assert {
    condition     = alltrue([for metric in values(local.metrics) : strcontains(google_monitoring_dashboard.this.dashboard_json, metric)])
    error_message = "a metric in local.metrics is on no chart"
  }
}
