//! GraphQL subscriptions for many users over many stateless pods, over one topic of a message
//! broker.
//!
//! ```text
//!  in:   topic ─▶ broker feed ─▶ relay ─▶ hub ─▶ watcher ─▶ web transport ─▶ client
//!  out:  client ─▶ web ─▶ graphql mutation ─▶ event publisher ─▶ broker ─▶ topic
//! ```
//!
//! The two lines meet only at the topic: a mutation never shortcuts into its own pod. Any pod may
//! crash, be added or be replaced at any time; a client resumes on any other pod.
//!
//! # A small domain
//!
//! A team brings two things: a [`Domain`], which turns tokens into viewers and events into facts,
//! and an async-graphql schema. This program is a whole chat with one room. Two pods share a topic;
//! Bob, on the second pod, receives what Ann posts on the first.
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//!
//! use futures_util::Stream;
//! use pubsub_relay::{
//!     Audience, Domain, Event, Fact, Identity, Interests, MemoryTopic, Pod, PodSettings, Unreadable,
//!     Viewer,
//!     async_graphql::{Context, Object, Schema, Subscription},
//!     build_api, payloads, publish,
//! };
//!
//! /// Every viewer listens to the one room.
//! struct Chat;
//!
//! impl Domain for Chat {
//!     fn viewer(&self, identity: Identity<'_>) -> Option<Viewer> {
//!         let Identity::Demo(name) = identity else { return None };
//!         Some(Viewer::new(name, Interests::new(["room".into()])))
//!     }
//!
//!     fn read(&self, event: &Event) -> Result<Fact, Unreadable> {
//!         let text: String = match &*event.kind {
//!             "message.posted.v1" => serde_json::from_slice(&event.data),
//!             _ => return Err(Unreadable::UnknownType),
//!         }
//!         .map_err(|_| Unreadable::Malformed("the data is not a text".to_owned()))?;
//!         // For every viewer that listens to the room, except the author.
//!         let audience = Audience::new(["room".into()], event.author.clone());
//!         Ok(Fact { fields: vec!["messagePosted".into()], audience, payload: Arc::new(text) })
//!     }
//!
//!     fn apply(&self, _event: &Event, _fact: &Fact) {} // no state behind queries
//! }
//!
//! struct Query;
//!
//! #[Object]
//! impl Query {
//!     async fn room(&self) -> &str {
//!         "tea"
//!     }
//! }
//!
//! struct Mutation;
//!
//! #[Object]
//! impl Mutation {
//!     async fn post(&self, ctx: &Context<'_>, text: String) -> Result<bool, pubsub_relay::Error> {
//!         publish(ctx, "message.posted.v1", &text).await?; // waits for the topic
//!         Ok(true)
//!     }
//! }
//!
//! struct Subscriptions;
//!
//! #[Subscription(name = "Subscription")]
//! impl Subscriptions {
//!     async fn message_posted(&self, ctx: &Context<'_>) -> impl Stream<Item = String> {
//!         payloads(ctx)
//!     }
//! }
//!
//! async fn start(name: &str, topic: &MemoryTopic) -> Result<Pod, pubsub_relay::StartError> {
//!     let api = build_api(Schema::build(Query, Mutation, Subscriptions));
//!     let address = ([127, 0, 0, 1], 0).into();
//!     let settings = PodSettings::local(name, address, Arc::new(topic.clone()));
//!     Pod::start(settings, Arc::new(Chat), api).await
//! }
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let topic = MemoryTopic::new(Duration::from_secs(600), 1 << 20);
//!     let (first, second) = (start("a", &topic).await?, start("b", &topic).await?);
//!     // Clients connect to http://{address}/graphql: WebSocket, server-sent events or multipart.
//!     println!("Ann: {}, Bob: {}", first.address(), second.address());
//!     first.drain().await;
//!     second.drain().await;
//!     Ok(())
//! }
//! ```
//!
//! `docs/ADAPTING.md` continues from here. `examples/chat.rs` is the same program with state behind
//! queries and a self-test.
//!
//! # Features
//!
//! - `pubsub` (default): Google Cloud Pub/Sub as a broker.
//! - `cli` (default): the program `relay`, with settings from the environment. A program that
//!   embeds a pod does without.
//!
//! The modules that are not listed here are internal. They have no promise of stability;
//! `docs/ARCHITECTURE.md` describes them.

#[doc(hidden)]
pub mod applied;
#[doc(hidden)]
pub mod audience;
pub mod auth;
pub mod broker;
#[doc(hidden)]
pub mod budget;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod clock;
#[doc(hidden)]
pub mod control;
#[doc(hidden)]
pub mod counts;
#[doc(hidden)]
pub mod cursor;
#[doc(hidden)]
pub mod domain;
#[doc(hidden)]
pub mod domains;
#[doc(hidden)]
pub mod event;
#[doc(hidden)]
pub mod graphql;
#[doc(hidden)]
pub mod health;
#[doc(hidden)]
pub mod hub;
mod lock;
#[doc(hidden)]
pub mod membership;
#[doc(hidden)]
pub mod pod;
#[doc(hidden)]
pub mod presence;
#[doc(hidden)]
pub mod question;
#[doc(hidden)]
pub mod relay;
#[doc(hidden)]
pub mod revocations;
mod rfc3339;
pub mod shutdown;
pub mod telemetry;
#[doc(hidden)]
pub mod web;

pub use async_graphql;

#[cfg(feature = "postgres")]
#[doc(inline)]
pub use self::broker::postgres::Topic as PostgresTopic;
#[cfg(feature = "pubsub")]
#[doc(inline)]
pub use self::broker::pubsub::Topic as PubSubTopic;
#[doc(inline)]
pub use self::{
    audience::{Audience, Interests, Key, Viewer},
    broker::{Broker, memory::Topic as MemoryTopic},
    domain::{Claims, Domain, Fact, Found, Identity, NoViewer, Unreadable},
    event::{Event, Payload},
    graphql::{
        Api, Error, build as build_api, build_dynamic as build_dynamic_api, error::Code,
        event_publisher::publish, subscription::payloads, viewer,
    },
    pod::{Drain, Drained, Pod, Settings as PodSettings, StartError},
    web::Tab,
};
