# Every pod reads the whole topic, so Pub/Sub's price grows with events times pods. This cost is
# easy to underestimate.
resource "google_billing_budget" "pubsub" {
  count = var.budget == null ? 0 : 1

  billing_account = var.budget.billing_account
  display_name    = "${local.name}: Pub/Sub"

  budget_filter {
    projects               = ["projects/${data.google_project.this.number}"]
    services               = ["services/A1E8-BE35-7EBC"] # Cloud Pub/Sub
    calendar_period        = "MONTH"
    credit_types_treatment = "EXCLUDE_ALL_CREDITS"
  }

  amount {
    specified_amount {
      units = tostring(var.budget.monthly_amount)
    }
  }

  threshold_rules {
    threshold_percent = 0.5
  }

  threshold_rules {
    threshold_percent = 0.9
  }

  threshold_rules {
    threshold_percent = 1.0
  }

  threshold_rules {
    threshold_percent = 1.0
    spend_basis       = "FORECASTED_SPEND"
  }

  # Billing administrators get a mail in any case. A budget has five channels at most.
  dynamic "all_updates_rule" {
    for_each = length(var.alert_emails) == 0 ? [] : [0]

    content {
      monitoring_notification_channels = slice(local.channels, 0, min(5, length(local.channels)))
    }
  }

  depends_on = [google_project_service.this]
}
