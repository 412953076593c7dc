locals {
  # Prometheus' names from docs/TELEMETRY.md. All queries of this folder take them from here.
  metrics = {
    clock_skew       = "relay_clock_skew_seconds"
    connections      = "relay_connections"
    connection_ends  = "relay_connection_ends_total"
    deliveries       = "relay_deliveries_total"
    delivery_latency = "relay_delivery_latency_seconds_bucket"
    events_received  = "relay_events_received_total"
    events_rejected  = "relay_events_rejected_total"
    feed_lag         = "relay_feed_lag_seconds"
    gaps             = "relay_gaps_total"
    log_trimmed      = "relay_log_trimmed_total"
    publishes        = "relay_publishes_total"
    resumes          = "relay_resumes_total"
    watchers         = "relay_watchers"
  }

  # The relay's pods, and no other pods of the project.
  ours = "cluster='${local.name}',namespace='${local.namespace}'"

  # Queries that alerts and dashboard share.
  queries = {
    available = "sum(kube_deployment_status_replicas_available{${local.ours}})"
    feeds     = "count(pubsub_googleapis_com:subscription_num_undelivered_messages{monitored_resource='pubsub_subscription',subscription_id=~'${var.topic_id}[.].*'})"
    latency   = "histogram_quantile(0.99, sum by (le) (rate(${local.metrics.delivery_latency}{${local.ours}}[5m])))"
    unsent    = "sum(rate(${local.metrics.publishes}{${local.ours},outcome!~'acknowledged|invalid'}[5m]))"
  }

  alerts = merge(local.pod_alerts, var.postgres == null ? {} : local.postgres_alerts)

  pod_alerts = {
    feed-lag = {
      title    = "feed lags"
      severity = "ERROR"
      seconds  = 300
      # A heartbeat takes well under a second. A pod opens a silent feed anew by itself after 30 s.
      # This alert fires if that did not help.
      query = "max by (pod) (${local.metrics.feed_lag}{${local.ours}}) > 5"
      help  = "A pod receives the topic late. One pod: delete it, its clients resume elsewhere. All pods: see the broker's status page, then check whether the pods lack CPU."
    }
    not-ready = {
      title    = "pods are not ready"
      severity = "CRITICAL"
      seconds  = 600
      # Longer than the rollout of one pod takes: start, warm-up, and the drain of the old pod.
      query = "sum(kube_deployment_spec_replicas{${local.ours}}) - ${local.queries.available} > 0"
      help  = "Fewer pods serve than should. /readyz of the pod says why: no topic, no permission, or a feed that receives nothing. kubectl describe says whether the pod was scheduled."
    }
    publish-failures = {
      title    = "publishing fails"
      severity = "CRITICAL"
      seconds  = 300
      # Users see PUBLISH_FAILED. Invalid requests of clients (invalid) do not count.
      query = "${local.queries.unsent} / sum(rate(${local.metrics.publishes}{${local.ours}}[5m])) > 0.01"
      help  = "More than 1 % of mutations fail. The label outcome says why: unavailable is the broker or a permission, timed_out is the network, overloaded is too few pods."
    }
    gaps = {
      title    = "events are missing"
      severity = "WARNING"
      seconds  = 0 # the events are missing already, and the 10 minutes of the query soon pass
      # A loss in the topic always alerts. Clients that come back after a night alert only if they
      # are many.
      query = <<-PROMQL
        sum by (reason) (increase(${local.metrics.gaps}{${local.ours},reason='feed_lost'}[10m])) > 0
        or
        sum by (reason) (increase(${local.metrics.gaps}{${local.ours},reason='window_exceeded'}[10m])) > 10
          and on () sum(increase(${local.metrics.gaps}{${local.ours},reason='window_exceeded'}[10m]))
            / sum(increase(${local.metrics.resumes}{${local.ours}}[10m])) > 0.1
      PROMQL
      help  = "Watchers get gaps: events are missing. feed_lost: the topic retained too little, or was created anew. window_exceeded: clients come back too late. Raise RELAY_REPLAY_WINDOW or RELAY_REPLAY_BYTES."
    }
    slow-ends = {
      title    = "clients do not read"
      severity = "WARNING"
      seconds  = 0 # as for gaps
      # A phone with a bad network is slow and comes back. One client in a hundred within ten
      # minutes has another cause.
      query = <<-PROMQL
        sum(increase(${local.metrics.connection_ends}{${local.ours},reason='slow'}[10m]))
          > clamp_min(0.01 * sum(${local.metrics.connections}{${local.ours}}), 10)
      PROMQL
      help  = "Connections end with 1013, because their clients read more slowly than events come. Either RELAY_QUEUE_BYTES is too small for bursts, clients are slow, or subscriptions bring too many events."
    }
    slow-delivery = {
      title    = "deliveries are slow"
      severity = "WARNING"
      seconds  = 600
      query    = "${local.queries.latency} > 1"
      help     = "One delivery in a hundred takes more than a second from the topic to the socket. See CPU per pod, then connections per pod, then the lag of the feeds."
    }
    orphan-feeds = {
      title    = "feeds without a pod"
      severity = "WARNING"
      seconds  = 1800
      # Pods delete the feeds of dead pods after three minutes. A rollout may double the number of
      # pods for a while, but not for half an hour.
      query = "${local.queries.feeds} - ${local.queries.available} > 20"
      help  = "Dead pods left subscriptions, and no janitor deletes them: see the pods' logs for the refusal. Unused subscriptions expire after 24 hours. At 10,000 no pod can start."
    }
    subscription-limit = {
      title    = "subscriptions near the limit"
      severity = "CRITICAL"
      seconds  = 600
      # A topic and a project have 10,000 at most. Half of that leaves a day at the worst rate seen
      # in a crash loop.
      query = "count(pubsub_googleapis_com:subscription_num_undelivered_messages{monitored_resource='pubsub_subscription'}) > 5000"
      help  = "At 10,000 subscriptions no new pod gets a feed. Delete the subscriptions of dead pods: gcloud pubsub subscriptions list --filter=labels.app=pubsub-relay."
    }
    rejected-events = {
      title    = "messages are rejected"
      severity = "WARNING"
      seconds  = 0 # as for gaps
      # Other programs publish, too. Events of another release (unknown_type) do not count.
      query = "sum by (reason) (increase(${local.metrics.events_rejected}{${local.ours},reason!='unknown_type'}[10m])) > 10"
      help  = "A publisher sends messages that pods reject, so that no watcher gets them. The label reason says what is wrong, and the pods' log has the ids of the messages."
    }
    clock-skew = {
      title    = "clocks differ"
      severity = "WARNING"
      seconds  = 600
      query    = "max by (pod) (abs(${local.metrics.clock_skew}{${local.ours}})) > 4"
      help     = "The clock of a pod differs from that of the broker by more than 4 s. One pod: the clock of its node. All pods: that of the database or of the broker. Set it by NTP."
    }
    most-pods = {
      title    = "as many pods as allowed"
      severity = "WARNING"
      seconds  = 900
      query    = "max(kube_horizontalpodautoscaler_status_current_replicas{${local.ours}}) >= max(kube_horizontalpodautoscaler_spec_max_replicas{${local.ours}})"
      help     = "The autoscaler is at its maximum. A pod refuses connections above RELAY_MAX_CONNECTIONS (1013). Raise maxReplicas and the budget."
    }
  }

  # With the topic in Cloud SQL.
  postgres_alerts = {
    log-not-trimmed = {
      title    = "the table of events grows"
      severity = "WARNING"
      seconds  = 1800
      # Heartbeats are events, too, so there are always old ones. With a replay window above an
      # hour, a new topic has none before it is over.
      query = "sum(increase(${local.metrics.log_trimmed}{${local.ours}}[1h])) == 0"
      help  = "No pod deletes old events. The pods' log says why (old events not deleted), often the missing right to delete. Cloud SQL enlarges its disk by itself, and the bill with it."
    }
    database-connections = {
      title    = "the database is nearly full of connections"
      severity = "CRITICAL"
      seconds  = 600
      # The pods' own are three for each, twice during a rollout. In PromQL the first "/" of
      # cloudsql.googleapis.com/database/postgresql/num_backends is ":", all other signs are "_"
      # (https://cloud.google.com/monitoring/promql/promql-mapping). The resource's label database_id
      # is PROJECT:INSTANCE. The metric has a series for each database, so they are added up.
      query = "sum(cloudsql_googleapis_com:database_postgresql_num_backends{monitored_resource='cloudsql_database',database_id='${var.project_id}:${local.name}-postgres'}) > ${floor(var.postgres == null ? 0 : var.postgres.max_connections * 0.8)}"
      help  = "Above max_connections no new pod gets a feed, and pods that lose a connection stay unready. See pg_stat_activity by usename. Raise postgres.max_connections, or end what other programs hold."
    }
  }

  channels = [for email in sort(var.alert_emails) : google_monitoring_notification_channel.email[email].id]
}

resource "google_monitoring_notification_channel" "email" {
  for_each = var.alert_emails

  display_name = "${local.name}: ${each.value}"
  type         = "email"

  labels = {
    email_address = each.value
  }

  depends_on = [google_project_service.this]
}

resource "google_monitoring_alert_policy" "this" {
  for_each = local.alerts

  display_name          = "${local.name}: ${each.value.title}"
  combiner              = "OR"
  severity              = each.value.severity
  notification_channels = local.channels
  user_labels           = local.labels

  conditions {
    display_name = each.value.title

    condition_prometheus_query_language {
      query               = each.value.query
      duration            = "${each.value.seconds}s"
      evaluation_interval = "60s"

      # The pods are deployed later, and their metrics come with them.
      disable_metric_validation = true
    }
  }

  alert_strategy {
    auto_close = "1800s" # after half an hour without data the pods are gone, and not-ready fires
  }

  documentation {
    content   = each.value.help
    mime_type = "text/markdown"
    subject   = "${local.name}: ${each.value.title}"
  }

  depends_on = [google_project_service.this]
}
