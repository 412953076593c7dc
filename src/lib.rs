//! GraphQL subscriptions across many stateless pods, over one Google Cloud Pub/Sub topic.

pub mod audience;
pub mod auth;
pub mod broker;
pub mod cluster;
pub mod config;
pub mod contract;
pub mod cursor;
pub mod doctor;
pub mod domain;
pub mod emulator;
pub mod event;
pub mod fleet;
pub mod graphql;
pub mod health;
pub mod hub;
pub mod pod;
pub mod pubsub;
pub mod relay;
pub mod shutdown;
pub mod telemetry;
pub mod web;
