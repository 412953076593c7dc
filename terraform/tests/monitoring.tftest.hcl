# Alerts, their recipients, and the dashboard.

mock_provider "google" {
  source = "./tests/mocks"
}

variables {
  project_id   = "relay-test"
  alert_emails = ["b@example.com", "a@example.com"]
}

run "alerts_reach_all_recipients_with_instructions" {
  assert {
    condition = toset(keys(google_monitoring_alert_policy.this)) == toset([
      "clock-skew", "feed-lag", "gaps", "most-pods", "not-ready", "orphan-feeds", "publish-failures", "rejected-events", "slow-delivery", "slow-ends", "subscription-limit",
    ])
    error_message = "an alert is missing or new: docs/OPERATIONS.md has an entry for each"
  }

  assert {
    condition     = alltrue([for policy in google_monitoring_alert_policy.this : length(policy.notification_channels) == 2])
    error_message = "each alert must go to all recipients"
  }

  assert {
    condition     = alltrue([for policy in google_monitoring_alert_policy.this : length(policy.documentation[0].content) > 80])
    error_message = "each alert must say what to do"
  }
}

run "alerts_exist_before_first_pod" {
  assert {
    condition     = alltrue([for policy in google_monitoring_alert_policy.this : policy.conditions[0].condition_prometheus_query_language[0].disable_metric_validation])
    error_message = "alerts must not require metrics that do not exist yet"
  }
}

run "alerts_query_own_pods_only" {
  assert {
    condition = alltrue([
      for name, policy in google_monitoring_alert_policy.this :
      strcontains(policy.conditions[0].condition_prometheus_query_language[0].query, "cluster='pubsub-relay',namespace='pubsub-relay'")
      if name != "subscription-limit"
    ])
    error_message = "an alert must not count pods of other applications"
  }
}

run "database_brings_its_alerts" {
  variables {
    postgres = { max_connections = 200 }
  }

  assert {
    condition     = alltrue([for name in ["log-not-trimmed", "database-connections"] : length(google_monitoring_alert_policy.this[name].documentation[0].content) > 80])
    error_message = "a database needs the alerts of its table and its connections"
  }

  assert {
    condition     = endswith(google_monitoring_alert_policy.this["database-connections"].conditions[0].condition_prometheus_query_language[0].query, "database_id='relay-test:pubsub-relay-postgres'}) > 160")
    error_message = "the alert must count this database's connections, up to four fifths of the most"
  }
}

run "orphan_alert_selects_feeds_by_topic" {
  variables {
    topic_id = "other-events"
  }

  assert {
    condition     = strcontains(google_monitoring_alert_policy.this["orphan-feeds"].conditions[0].condition_prometheus_query_language[0].query, "subscription_id=~'other-events[.].*'")
    error_message = "the alert must select feeds by the topic in their name"
  }
}

run "dashboard_charts_every_listed_metric" {
  assert {
    condition     = alltrue([for metric in values(local.metrics) : strcontains(google_monitoring_dashboard.this.dashboard_json, metric)])
    error_message = "each metric in local.metrics must be on a chart"
  }
}
