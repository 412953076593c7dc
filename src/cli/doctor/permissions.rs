//! The permissions that pods need at Pub/Sub. `terraform/pubsub.tf` has the same list.

/// What the pods need on the topic; `terraform/pubsub.tf` has the same list.
pub(super) const ON_TOPIC: [&str; 3] = [ATTACH, "pubsub.topics.get", "pubsub.topics.publish"];

pub(super) const ATTACH: &str = "pubsub.topics.attachSubscription";

/// What they need on feeds: IAM can be asked about a feed that is there.
pub(super) const ON_FEEDS: [&str; 2] = [CONSUME, "pubsub.subscriptions.delete"];

pub(super) const CONSUME: &str = "pubsub.subscriptions.consume";

/// What they need on the project, which Pub/Sub cannot be asked about: it shows when it is done.
pub(super) const CREATE: &str = "pubsub.subscriptions.create";

pub(super) const LIST: &str = "pubsub.subscriptions.list";
