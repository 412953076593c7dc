//! Permissions that pods need at Pub/Sub.
//!
//! A test compares them with `terraform/pubsub.tf`. A pod must never need any other permission.

/// Permissions on the topic.
pub(super) const ON_TOPIC: [&str; 3] = [ATTACH, "pubsub.topics.get", "pubsub.topics.publish"];

/// Permission to attach a feed to the topic.
pub(super) const ATTACH: &str = "pubsub.topics.attachSubscription";

/// Permissions on feeds. IAM can test them on a feed that exists.
pub(super) const ON_FEEDS: [&str; 2] = [CONSUME, "pubsub.subscriptions.delete"];

/// Permission to receive from a feed and to seek it.
pub(super) const CONSUME: &str = "pubsub.subscriptions.consume";

/// Permission on the project to create a feed. Pub/Sub cannot test it; the trial feed shows it.
pub(super) const CREATE: &str = "pubsub.subscriptions.create";

/// Permission on the project to list feeds. Pub/Sub cannot test it; the listing shows it.
pub(super) const LIST: &str = "pubsub.subscriptions.list";
