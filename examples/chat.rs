//! Another domain on the same library: chat rooms. `cargo run --example chat` serves it on port
//! 3000 to the users `ann`, `bob` and `cat` (`Authorization: Bearer ann`). With `--self-test` two
//! pods prove that it works.
//!
//! The example shows all that a domain implements. It must never depend on the tutorial's domain.

#[path = "chat/self_test.rs"]
mod self_test;

use std::{
    collections::{BTreeMap, HashMap},
    ops::RangeInclusive,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::Stream;
use pubsub_relay::{
    Audience, Code, Domain, Error, Event, Fact, Identity, Interests, Key, MemoryTopic, Pod, PodSettings,
    StartError, Tab, Unreadable, Viewer,
    async_graphql::{Context, ID, Object, Schema, SimpleObject, Subscription},
    build_api, payloads, publish,
    shutdown::Signals,
    telemetry, viewer,
};
use serde::{Deserialize, Serialize};

const MEMBERS: [(&str, &[&str]); 2] = [("tea", &["ann", "bob"]), ("code", &["bob", "cat"])];
const MESSAGE_POSTED: &str = "message.posted.v1";
const WINDOW: Duration = Duration::from_secs(600);
const TEXT_BYTES: RangeInclusive<usize> = 1..=1_000;
/// Number of messages kept per room; beyond it the oldest is dropped.
const KEPT: usize = 100;

/// Payload on the topic; the other fields of a [`Message`] come from the event's envelope.
#[derive(Serialize, Deserialize)]
struct Posted {
    room: String,
    text: String,
}

#[derive(Clone, SimpleObject)]
struct Message {
    id: ID,
    room: String,
    author: Option<String>,
    text: String,
}

/// Messages of each room by id. The ids are UUIDv7, so all pods have the same order and a repeated
/// event changes nothing.
#[derive(Default)]
struct Chat(Mutex<HashMap<String, BTreeMap<String, Message>>>);

fn key(room: &str) -> Key {
    format!("room:{room}").into()
}

impl Domain for Chat {
    fn viewer(&self, identity: Identity<'_>) -> Option<Viewer> {
        let Identity::Demo(user) = identity else { return None };
        let rooms = MEMBERS.iter().filter(|(_, members)| members.contains(&user)).map(|(room, _)| key(room));
        let interests = Interests::new(rooms);
        (!interests.keys().is_empty()).then(|| Viewer::new(user, interests))
    }

    fn read(&self, event: &Event) -> Result<Fact, Unreadable> {
        if &*event.kind != MESSAGE_POSTED {
            return Err(Unreadable::UnknownType);
        }
        let posted: Option<Posted> = serde_json::from_slice(&event.data).ok();
        let is_ours = |posted: &Posted| {
            MEMBERS.iter().any(|(room, _)| *room == posted.room) && TEXT_BYTES.contains(&posted.text.len())
        };
        let Some(Posted { room, text }) = posted.filter(is_ours) else {
            return Err(Unreadable::Malformed("not a message of one of our rooms".to_owned()));
        };
        let audience = Audience::new([key(&room)], event.author.clone());
        let author = event.author.as_deref().map(str::to_owned);
        let message = Message { id: event.id.to_string().into(), room, author, text };
        Ok(Fact { fields: vec!["messagePosted".into()], audience, payload: Arc::new(message) })
    }

    fn apply(&self, event: &Event, fact: &Fact) {
        let Some(message) = fact.payload.downcast_ref::<Message>() else { return };
        let mut rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let messages = rooms.entry(message.room.clone()).or_default();
        messages.insert(event.id.to_string(), message.clone());
        if messages.len() > KEPT {
            messages.pop_first();
        }
    }
}

/// Refuses a viewer that is not a member of the room.
fn enter(ctx: &Context<'_>, room: &str) -> Result<(), Error> {
    let is_member = viewer(ctx)?.interests.keys().contains(&key(room));
    if is_member { Ok(()) } else { Err(Error::new(Code::Forbidden, "you are not in this room")) }
}

struct Query;

#[Object]
impl Query {
    async fn messages(&self, ctx: &Context<'_>, room: String) -> Result<Vec<Message>, Error> {
        enter(ctx, &room)?;
        let rooms = ctx.data_unchecked::<Arc<Chat>>().0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(rooms.get(&room).into_iter().flat_map(BTreeMap::values).cloned().collect())
    }
}

struct Mutation;

#[Object]
impl Mutation {
    async fn post_message(&self, ctx: &Context<'_>, room: String, text: String) -> Result<bool, Error> {
        enter(ctx, &room)?;
        if !TEXT_BYTES.contains(&text.len()) {
            return Err(Error::bad_input("text must have 1 to 1000 bytes"));
        }
        publish(ctx, MESSAGE_POSTED, &Posted { room, text }).await?;
        Ok(true)
    }
}

struct Subscriptions;

#[Subscription(name = "Subscription")]
impl Subscriptions {
    async fn message_posted(&self, ctx: &Context<'_>) -> impl Stream<Item = Message> {
        payloads(ctx)
    }
}

async fn start(name: &str, port: u16, topic: &MemoryTopic) -> Result<Pod, StartError> {
    let chat = Arc::new(Chat::default());
    let api = build_api(Schema::build(Query, Mutation, Subscriptions).data(chat.clone()));
    let listen = ([127, 0, 0, 1], port).into();
    let query = "subscription Watch { messagePosted { room text } }";
    let settings = PodSettings::local(name, listen, Arc::new(topic.clone()))
        .with_tabs(vec![Tab { query: query.into(), token: "ann".into() }]);
    Pod::start(settings, chat, api).await
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    telemetry::init(&telemetry::Settings { log: "info".to_owned(), ..telemetry::Settings::default() })?;
    let mut signals = Signals::listen()?;
    let topic = MemoryTopic::new(WINDOW, 1 << 24);
    if std::env::args().any(|argument| argument == "--self-test") {
        return self_test::run(&topic).await;
    }
    let pod = start("chat", 3000, &topic).await?;
    signals.next().await;
    pod.drain().await;
    telemetry::flush_log();
    Ok(())
}
