//! GraphQL subscriptions for many users over many stateless pods, over one Google Cloud Pub/Sub topic.
//!
//! ```text
//!  in:   topic ─▶ pubsub::feed ─▶ relay ─▶ hub ─▶ watcher ─▶ web::{ws,stream} ─▶ client
//!  out:  client ─▶ web ─▶ graphql::mutation ─▶ broker::Publish ─▶ pubsub::publisher ─▶ topic
//! ```
//!
//! The two lines meet only at the topic: a mutation never shortcuts into its own pod.
//!
//! What flows:
//! - [`event`]: the one value that flows, and what it is on the wire
//! - [`audience`]: whom an event is for
//! - [`cursor`]: where a client is in the stream of events
//!
//! The way in:
//! - [`broker`]: the ports to a broker, and the one in memory
//! - [`pubsub`]: Google's, the only room that knows Google's crates
//! - [`membership`]: who else is alive, and whether this pod hears
//! - [`relay`]: the loop, from the feed to the hub
//! - [`hub`]: who watches here, and the recent events for those who come back
//!
//! The way to clients, and out:
//! - [`web`]: every route, and the connections
//! - [`auth`]: who is asking
//! - [`graphql`]: queries, mutations and subscriptions, whatever the schema
//! - [`contract`]: what the relay asks of a domain
//! - [`domain`]: the tutorial's, which a team replaces
//!
//! Around them:
//! - [`pod`]: builds one pod out of all this, runs it, drains it
//! - [`health`]: whether it should get traffic
//! - [`telemetry`]: logs, traces, metrics
//! - [`shutdown`]: the signals that end it
//! - [`config`]: every setting
//! - [`cluster`]: several pods in one process, and [`emulator`], which they share
//! - [`doctor`]: what a deploy gets wrong
//!
//! What imports what: `docs/ARCHITECTURE.md`.

pub mod audience;
pub mod auth;
pub mod broker;
#[cfg(feature = "cli")]
pub mod cli;
pub mod cursor;
pub mod domain;
pub mod domains;
pub mod event;
pub mod graphql;
pub mod health;
pub mod hub;
pub mod membership;
pub mod pod;
pub mod relay;
pub mod shutdown;
pub mod telemetry;
pub mod web;

pub use self::{
    audience::{Audience, Interests, Viewer},
    domain::{Claims, Domain, Fact, Identity, Unreadable},
    event::Event,
};
