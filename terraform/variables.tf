variable "project_id" {
  description = "Project that holds everything. Use one for each environment, for the relay alone: pods may delete any subscription in it."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "A project id has 6 to 30 of a-z, 0-9 and -. It begins with a letter and does not end with -."
  }
}

variable "region" {
  description = "Region of the cluster, the images, and the stored events."
  type        = string
  default     = "europe-west1"

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "A region looks like europe-west1. A zone (europe-west1-b) is not a region."
  }
}

variable "labels" {
  description = "Labels for every resource that can have them, in addition to app and managed-by."
  type        = map(string)
  default     = {}

  validation {
    condition = alltrue([
      for key, value in var.labels :
      can(regex("^[a-z][a-z0-9_-]{0,62}$", key)) && can(regex("^[a-z0-9_-]{0,63}$", value))
    ])
    error_message = "Keys and values have at most 63 of a-z, 0-9, _ and -. A key begins with a letter."
  }
}

variable "ranges" {
  description = "IPv4 ranges of nodes, pods and services. They must not overlap the ranges of peered networks."
  type = object({
    nodes    = string
    pods     = string
    services = string
  })
  default = {
    nodes    = "10.10.0.0/20"
    pods     = "10.16.0.0/14"
    services = "10.20.0.0/20"
  }

  validation {
    condition     = alltrue([for range in values(var.ranges) : can(cidrnetmask(range))])
    error_message = "Each range is an IPv4 network such as 10.10.0.0/20."
  }
}

variable "release_channel" {
  description = "How early the cluster gets new versions of Kubernetes: RAPID, REGULAR, STABLE or EXTENDED."
  type        = string
  default     = "REGULAR"

  validation {
    condition     = contains(["RAPID", "REGULAR", "STABLE", "EXTENDED"], var.release_channel)
    error_message = "One of RAPID, REGULAR, STABLE, EXTENDED."
  }
}

variable "maintenance_window" {
  description = "When GKE may upgrade: start and end of the first window (RFC 3339), and its recurrence (RFC 5545). GKE needs 48 hours in 32 days, at least 4 at a time."
  type = object({
    start_time = string
    end_time   = string
    recurrence = string
  })
  default = {
    start_time = "2026-01-06T02:00:00Z"
    end_time   = "2026-01-06T06:00:00Z"
    recurrence = "FREQ=WEEKLY;BYDAY=TU,WE,TH"
  }

  validation {
    condition = try(
      timecmp(var.maintenance_window.end_time, timeadd(var.maintenance_window.start_time, "4h")) >= 0,
      false,
    )
    error_message = "start_time and end_time look like 2026-01-06T02:00:00Z and are at least 4 hours apart."
  }

  validation {
    condition     = startswith(var.maintenance_window.recurrence, "FREQ=")
    error_message = "recurrence looks like FREQ=WEEKLY;BYDAY=SA,SU."
  }
}

variable "deletion_protection" {
  description = "Whether Terraform refuses to delete the cluster."
  type        = bool
  default     = true
}

variable "topic_id" {
  description = "Id of the topic. RELAY_BROKER of the pods names it."
  type        = string
  default     = "relay-events"

  # A feed is named <topic>.<pod>.<generation>, and a subscription's id has at most 255 characters.
  validation {
    condition     = can(regex("^[A-Za-z][A-Za-z0-9_-]{2,127}$", var.topic_id)) && !startswith(var.topic_id, "goog")
    error_message = "A topic id has 3 to 128 of A-Z, a-z, 0-9, _ and -. It begins with a letter, but not with goog."
  }
}

variable "message_retention_seconds" {
  description = "How long the topic keeps messages after delivery, in seconds. A new pod can read back this far."
  type        = number
  default     = 3600

  validation {
    condition = (
      var.message_retention_seconds == floor(var.message_retention_seconds) &&
      var.message_retention_seconds >= 600 &&
      var.message_retention_seconds <= 31 * 24 * 60 * 60
    )
    error_message = "A topic retains messages for 600 seconds (10 minutes) to 2678400 seconds (31 days)."
  }

  validation {
    condition     = var.message_retention_seconds >= var.replay_window_seconds
    error_message = "Retention below the replay window loses events: new pods could not replay what clients may ask for."
  }
}

variable "replay_window_seconds" {
  description = "How far back clients can resume, in seconds: RELAY_REPLAY_WINDOW of the pods. Only compared with the retention."
  type        = number
  default     = 600

  validation {
    condition     = var.replay_window_seconds >= 1 && var.replay_window_seconds <= 24 * 60 * 60
    error_message = "The relay accepts a window of 1 second to 24 hours."
  }
}

variable "cmek_enabled" {
  description = "Whether the topic is encrypted with a key of the project instead of Google's key."
  type        = bool
  default     = false
}

variable "control_secret_enabled" {
  description = "Whether Secret Manager keeps the secret by which pods prove their heartbeats."
  type        = bool
  default     = false
}

variable "images_kept" {
  description = "How many of the newest images are never cleaned up, in addition to all releases."
  type        = number
  default     = 10

  validation {
    condition     = var.images_kept >= 2 && var.images_kept == floor(var.images_kept)
    error_message = "At least 2: the image under test and the one before it."
  }
}

variable "image_publishers" {
  description = "IAM members that may push images: usually the principalSet of the pipeline's workload identity pool."
  type        = set(string)
  default     = []

  validation {
    condition = alltrue([
      for member in var.image_publishers :
      can(regex("^(user|group|serviceAccount):.+@.+$|^principal(Set)?://.+$", member))
    ])
    error_message = "An IAM member begins with user:, group:, serviceAccount:, principal:// or principalSet://."
  }
}

variable "domain" {
  description = "Name to which clients connect, such as relay.example.com. Without it there is no certificate map, from which the Gateway of k8s/overlays/gke takes its certificate."
  type        = string
  default     = null

  validation {
    condition     = var.domain == null || can(regex("^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)+[a-z]{2,63}$", var.domain))
    error_message = "A domain looks like relay.example.com: lowercase, without a final dot."
  }
}

variable "dns_zone" {
  description = "Managed zone of Cloud DNS, in this project, that holds the domain. Without it, enter the output dns_records at your DNS provider."
  type        = string
  default     = null

  validation {
    condition     = var.dns_zone == null || var.domain != null
    error_message = "A zone needs a domain: set domain, too."
  }
}

variable "alert_emails" {
  description = "E-mail addresses that receive alerts and budget warnings."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for email in var.alert_emails : can(regex("^[^@ ]+@[^@ ]+$", email))])
    error_message = "Each value is an e-mail address."
  }
}

variable "budget" {
  description = "Budget for Pub/Sub: the billing account, and whole units of its currency per month. It warns and stops nothing."
  type = object({
    billing_account = string
    monthly_amount  = number
  })
  default = null

  validation {
    condition     = var.budget == null || can(regex("^[0-9A-F]{6}-[0-9A-F]{6}-[0-9A-F]{6}$", var.budget.billing_account))
    error_message = "A billing account looks like 012345-6789AB-CDEF01."
  }

  validation {
    condition     = try(var.budget.monthly_amount > 0 && var.budget.monthly_amount == floor(var.budget.monthly_amount), var.budget == null)
    error_message = "The amount is a whole number above 0."
  }
}

variable "postgres" {
  description = "Cloud SQL for PostgreSQL as the broker: machine type, most connections (six for each pod at the most), and the range of its private address. Without it there is none."
  type = object({
    tier            = optional(string, "db-custom-2-7680")
    max_connections = optional(number, 300)
    range           = optional(string, "10.30.0.0/24")
  })
  default = null

  validation {
    condition     = var.postgres == null || try(cidrnetmask(var.postgres.range) != "" && tonumber(split("/", var.postgres.range)[1]) <= 24, false)
    error_message = "The range is an IPv4 network of 256 addresses or more, such as 10.30.0.0/24."
  }

  validation {
    condition     = try(var.postgres.max_connections >= 50 && var.postgres.max_connections == floor(var.postgres.max_connections), var.postgres == null)
    error_message = "max_connections is a whole number of 50 or more."
  }
}

variable "gke_enabled" {
  description = "Whether there is a GKE cluster. Off with one of the runtimes below; its balancer's address and certificate stay for them."
  type        = bool
  default     = true

  validation {
    condition     = var.gke_enabled || var.postgres == null
    error_message = "Cloud SQL is reached through the Auth Proxy beside the pods of GKE: postgres needs gke_enabled."
  }
}

variable "pods" {
  description = "Image of the pods outside GKE, and settings for them by the names of docs/CONFIG.md: the keys of tokens at least. A secret does not belong here, since it would be in Terraform's state."
  type = object({
    image    = string
    settings = optional(map(string), {})
  })
  default = null

  validation {
    condition     = var.pods == null || can(regex("(@sha256:[0-9a-f]{64}|:v?[0-9][^:/]*)$", var.pods.image))
    error_message = "The image ends with a digest or with the tag of a release, such as :v0.1.0."
  }

  validation {
    condition = var.pods == null || alltrue([
      for name in keys(try(var.pods.settings, {})) :
      can(regex("^(RELAY|OTEL)_[A-Z_]+$", name)) && !can(regex("(SECRET|PASSWORD|TOKEN)$", name))
    ])
    error_message = "Settings begin with RELAY_ or OTEL_, and none is a secret."
  }
}

variable "cloud_run" {
  description = "Pods on Cloud Run: docs/CLOUD-RUN.md says what differs. connections is the most that one instance takes, 1000 at Cloud Run."
  type = object({
    min_instances = optional(number, 2)
    max_instances = optional(number, 10)
    connections   = optional(number, 1000)
  })
  default = null

  validation {
    condition     = var.cloud_run == null || var.pods != null
    error_message = "cloud_run needs pods: the image, and how tokens are checked."
  }

  validation {
    condition     = try(var.cloud_run.min_instances >= 1 && var.cloud_run.min_instances <= var.cloud_run.max_instances, var.cloud_run == null)
    error_message = "At least one instance must stay: an instance without a client has no feed. The maximum is not below it."
  }

  validation {
    condition     = try(var.cloud_run.connections >= 1 && var.cloud_run.connections <= 1000, var.cloud_run == null)
    error_message = "An instance of Cloud Run takes 1 to 1000 requests at a time, and each connection is one."
  }
}

variable "compute_engine" {
  description = "Pods on Compute Engine, one on each machine, behind Google's load balancer: docs/COMPUTE-ENGINE.md says what differs."
  type = object({
    machine_type  = optional(string, "e2-standard-2")
    min_instances = optional(number, 3)
    max_instances = optional(number, 20)
  })
  default = null

  validation {
    condition     = var.compute_engine == null || (var.pods != null && var.domain != null)
    error_message = "compute_engine needs pods, and the domain of the load balancer's certificate."
  }

  validation {
    condition     = var.compute_engine == null || !var.gke_enabled
    error_message = "compute_engine takes the address that the Gateway of GKE uses: set gke_enabled = false."
  }

  validation {
    condition     = try(var.compute_engine.min_instances >= 2 && var.compute_engine.min_instances <= var.compute_engine.max_instances, var.compute_engine == null)
    error_message = "At least two machines, in two zones. The maximum is not below the minimum."
  }
}

variable "app_engine" {
  description = "Pods on App Engine's flexible environment: docs/APP-ENGINE.md says what differs. The location can never be changed."
  type = object({
    location      = string
    min_instances = optional(number, 2)
    max_instances = optional(number, 10)
  })
  default = null

  validation {
    condition     = var.app_engine == null || var.pods != null
    error_message = "app_engine needs pods: the image, and how tokens are checked."
  }

  validation {
    condition     = try(var.app_engine.min_instances >= 2 && var.app_engine.min_instances <= var.app_engine.max_instances, var.app_engine == null)
    error_message = "At least two instances, since each may restart once a week. The maximum is not below the minimum."
  }
}
