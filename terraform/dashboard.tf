locals {
  # From top to bottom: what users see, then the work of the pods, then the work of the topic.
  charts = [
    { title = "Connections per pod", unit = "1", query = "sum by (pod) (${local.metrics.connections}{${local.ours}})" },
    { title = "Watchers per pod", unit = "1", query = "sum by (pod) (${local.metrics.watchers}{${local.ours}})" },
    { title = "Deliveries per second", unit = "1/s", query = "sum by (transport) (rate(${local.metrics.deliveries}{${local.ours}}[5m]))" },
    { title = "Delivery latency, 99 %", unit = "s", query = local.queries.latency },
    { title = "Ends per second, by reason", unit = "1/s", query = "sum by (reason) (rate(${local.metrics.connection_ends}{${local.ours}}[5m]))" },
    { title = "Gaps per second, by reason", unit = "1/s", query = "sum by (reason) (rate(${local.metrics.gaps}{${local.ours}}[5m]))" },
    { title = "Watchers resumed per second", unit = "1/s", query = "sum(rate(${local.metrics.resumes}{${local.ours}}[5m]))" },
    { title = "Publishes per second, by outcome", unit = "1/s", query = "sum by (outcome) (rate(${local.metrics.publishes}{${local.ours}}[5m]))" },
    { title = "Feed lag per pod", unit = "s", query = "max by (pod) (${local.metrics.feed_lag}{${local.ours}})" },
    { title = "Events per second and pod", unit = "1/s", query = "sum by (pod) (rate(${local.metrics.events_received}{${local.ours}}[5m]))" },
    { title = "Messages rejected per second, by reason", unit = "1/s", query = "sum by (reason) (rate(${local.metrics.events_rejected}{${local.ours}}[5m]))" },
    { title = "Clock skew per pod", unit = "s", query = "max by (pod) (${local.metrics.clock_skew}{${local.ours}})" },
    { title = "Old events deleted per second (PostgreSQL)", unit = "1/s", query = "sum(rate(${local.metrics.log_trimmed}{${local.ours}}[5m]))" },
    { title = "Pods available", unit = "1", query = local.queries.available },
    { title = "Feeds (subscriptions)", unit = "1", query = local.queries.feeds },
    { title = "Pub/Sub bytes delivered per second (billed)", unit = "By/s", query = "sum(rate(pubsub_googleapis_com:subscription_byte_cost{monitored_resource='pubsub_subscription',subscription_id=~'${var.topic_id}[.].*'}[5m]))" },
  ]
}

resource "google_monitoring_dashboard" "this" {
  dashboard_json = jsonencode({
    displayName = local.name

    # A grid needs no coordinates. The service drops coordinates of zero, and Terraform would plan
    # them again each time.
    gridLayout = {
      columns = "2"
      widgets = [
        for chart in local.charts : {
          title = chart.title
          xyChart = {
            dataSets = [{
              plotType = "LINE"
              timeSeriesQuery = {
                prometheusQuery = chart.query
                unitOverride    = chart.unit
              }
            }]
          }
        }
      ]
    }
  })

  depends_on = [google_project_service.this]
}
