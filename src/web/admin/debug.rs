//! `/debug` for operators, behind its own token: open connections, recent events, and why a user
//! did or did not get an event.
//!
//! Without a token in the settings `/debug` does not exist. Users and keys are shown as short
//! hashes unless the request asks to reveal them. Payloads and tokens must never be shown. Answers
//! are bounded and carry the total.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use axum::{
    Json,
    extract::{Query, State},
    http::{StatusCode, header::CACHE_CONTROL},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha1::{Digest as _, Sha1};

use super::why;
use crate::web::{connection::Entry, state::AppState};
use crate::{
    audience::Viewer,
    auth::secret::Secret,
    domain::Found,
    hub::{Answer, DeliveryRecord, Relayed, SendQueue},
    question::{Gathered, Question, verdicts},
    rfc3339,
};

/// The most rows of an answer. Further ones are left out.
const MAX_ROWS: usize = 1_000;

/// Events of an answer, unless the request names a number.
const DEFAULT_EVENTS: usize = 50;

/// Most events of an answer.
const MAX_EVENTS: usize = 200;

/// Most keys that are shown of each of several events.
const MAX_KEYS: usize = 16;

/// Answer for a user that is not in the domain's table.
const UNKNOWN_USER: &str = "UNKNOWN_USER";

/// Parameters of all requests.
#[derive(Deserialize)]
pub struct Asked {
    event: Option<String>,
    user: Option<String>,
    /// `this`: no other pod is asked.
    pods: Option<String>,
    /// Number of events.
    limit: Option<usize>,
    #[serde(default)]
    reveal: bool,
}

/// Answers `GET /debug/connections`.
pub async fn connections(State(app): State<Arc<AppState>>, Query(asked): Query<Asked>) -> Response {
    let names = Names::new(&app, &asked);
    let (total, connections) = sample(&app, MAX_ROWS);
    let rows = connections.into_iter().map(|(entry, viewer)| {
        let viewer = viewer.as_ref();
        json!({
            "viewer": viewer.map(|viewer| names.show(&viewer.user)),
            "transport": entry.transport.name(),
            "age_seconds": entry.since.elapsed().as_secs_f64(),
            "watchers": entry.send_queue.watchers(),
            "interests": viewer.map(|viewer| names.show_all(viewer.interests.keys())),
            "queue_bytes": entry.send_queue.bytes(),
            "cursor": entry.cursor,
        })
    });
    answer(&json!({ "total": total, "connections": rows.collect::<Value>() }))
}

/// Connection of an answer, with the viewer of its watchers.
pub(super) type Shown = (Entry, Option<Arc<Viewer>>);

/// Returns the number of connections, and the first `most` of them. Watchers show the viewer: a
/// connection without watchers has none.
pub(super) fn sample(app: &AppState, most: usize) -> (usize, Vec<Shown>) {
    let (total, entries) = app.connections.entries(most);
    let place = |queue: &Arc<SendQueue>| Arc::as_ptr(queue).addr();
    let mut viewers: HashMap<usize, Option<Arc<Viewer>>> =
        entries.iter().map(|entry| (place(&entry.send_queue), None)).collect();
    app.hub.visit(|queue, viewer| {
        if let Some(of_queue) = viewers.get_mut(&place(queue)) {
            *of_queue = Some(viewer.clone());
        }
    });
    let with_viewer = |entry: Entry| {
        let viewer = viewers.remove(&place(&entry.send_queue)).flatten();
        (entry, viewer)
    };
    (total, entries.into_iter().map(with_viewer).collect())
}

/// Answers `GET /debug/events`: the newest events of the window, and what became of them.
pub async fn events(State(app): State<Arc<AppState>>, Query(asked): Query<Asked>) -> Response {
    let names = Names::new(&app, &asked);
    let most = asked.limit.unwrap_or(DEFAULT_EVENTS).min(MAX_EVENTS);
    let rows = app.hub.newest_events(most).into_iter().map(|(relayed, record)| {
        let count = |answer| record.told.values().filter(|known| **known == answer).count();
        let mut row = row(&names, &relayed, &record, MAX_KEYS);
        row.extend(object(json!({
            "told": count(Answer::Told),
            "queue_full": count(Answer::QueueFull),
            "filtered": count(Answer::Filtered),
            "is_cut": record.is_cut,
            "repeats": record.repeats,
        })));
        Value::Object(row)
    });
    answer(&json!({ "events": rows.collect::<Value>() }))
}

/// Answers `GET /debug/explain?event=<id>&user=<user>` with the answers of all pods; without a
/// user, with the users that got the event here.
pub async fn explain(State(app): State<Arc<AppState>>, Query(asked): Query<Asked>) -> Response {
    let names = Names::new(&app, &asked);
    let Some(event) = &asked.event else {
        return (StatusCode::BAD_REQUEST, "name the event: ?event=ID&user=ID\n").into_response();
    };
    let mut body = describe(&app, &names, event);
    if let Some(user) = asked.user.as_deref() {
        let about = About { event, user, only_this: asked.pods.as_deref() == Some("this") };
        about.all_pods(&app, &names, &mut body).await;
    }
    answer(&Value::Object(body))
}

/// Returns what this pod knows of the event, without regard to a user.
fn describe(app: &AppState, names: &Names<'_>, event: &str) -> Map<String, Value> {
    let Some((relayed, record)) = app.hub.explain(event) else {
        return object(json!({ "event": event, "answer": Answer::NotInWindow }));
    };
    let receivers = record.told.iter().filter(|(_, answer)| **answer == Answer::Told);
    let receivers: Vec<_> = receivers.take(MAX_ROWS).map(|(user, _)| names.show(user)).collect();
    let mut row = row(names, &relayed, &record, MAX_ROWS);
    row.extend(object(json!({
        "repeats": { "count": record.repeats, "answer": "ALREADY_SEEN" },
        "told": receivers,
        "told_is_cut": record.is_cut,
    })));
    row
}

/// Returns what all answers have of an event, with this many of its keys.
fn row(names: &Names<'_>, relayed: &Relayed, record: &DeliveryRecord, most: usize) -> Map<String, Value> {
    let keys = relayed.audience.keys();
    object(json!({
        "event": relayed.position.event,
        "kind": &*relayed.event.kind,
        "fields": relayed.fields,
        "published": relayed.event.published.map(time),
        "received": time(record.received),
        "author": relayed.event.author.as_deref().map(|author| names.show(author)),
        "keys": names.show_all(keys.get(..most).unwrap_or(keys)),
        "matched_watchers": record.matched,
    }))
}

/// Question of an operator: why did the user receive the event, or not?
struct About<'a> {
    event: &'a str,
    /// Id, e-mail address or demo name.
    user: &'a str,
    /// Whether no other pod is asked.
    only_this: bool,
}

impl About<'_> {
    /// Adds this pod's answer to the body, and those of the others.
    async fn all_pods(&self, app: &AppState, names: &Names<'_>, body: &mut Map<String, Value>) {
        let (user, viewer): (Arc<str>, _) = match app.auth.find(self.user) {
            Found::User(viewer) => (viewer.user.clone(), Some(viewer)),
            Found::NoTable => (self.user.into(), app.auth.viewer(self.user)),
            Found::Unknown => {
                let user = json!({ "user": names.show(self.user), "answer": UNKNOWN_USER });
                body.insert("user".to_owned(), user);
                return;
            }
        };
        let pod: Arc<str> = app.health.pod().into();
        let question = Question { pod, event: self.event.into(), user: user.clone() };
        let own = why::answer(app, &question);
        let asked = match self.only_this {
            true => None,
            false => Some(app.questions.ask(self.event, &user).await),
        };
        let (gathered, not_asked) = match asked {
            None => (Gathered::default(), None),
            Some(Ok(gathered)) => (gathered, None),
            Some(Err(why)) => {
                (Gathered::default(), Some(json!({ "code": why.code(), "message": why.to_string() })))
            }
        };
        let answers = [vec![own.clone()], gathered.answers].concat();
        let pods = verdicts(&answers).into_iter().map(|verdict| {
            let stays = answers.iter().find(|answer| answer.pod == verdict.pod);
            json!({
                "pod": verdict.pod,
                "answer": verdict.answer,
                "sentence": verdict.sentence,
                "resumed": verdict.resumed.map(|(pod, at)| json!({ "pod": pod, "at": at })),
                "connections": stays.map(|answer| &answer.stays),
            })
        });
        let interests = viewer.as_ref().map(|viewer| names.show_all(viewer.interests.keys()));
        let about = json!({ "user": names.show(&user), "interests": interests, "answer": own.answer });
        body.insert("user".to_owned(), about);
        body.insert("pods".to_owned(), pods.collect());
        body.insert("silent".to_owned(), json!(gathered.silent));
        body.insert("not_asked".to_owned(), json!(not_asked));
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

fn answer(body: &Value) -> Response {
    ([(CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

fn time(time: SystemTime) -> String {
    rfc3339::write(time).unwrap_or_default()
}

/// Form in which users and keys are shown.
pub(super) struct Names<'a> {
    reveal: bool,
    secret: Option<&'a Secret>,
}

impl<'a> Names<'a> {
    const fn new(app: &'a AppState, asked: &Asked) -> Self {
        Self::of(app, asked.reveal)
    }

    /// Returns the names themselves, or their hashes.
    pub(super) const fn of(app: &'a AppState, reveal: bool) -> Self {
        Self { reveal, secret: app.settings.reading_token() }
    }

    /// Returns the name itself, or a hash that only operators with the token can compute. Pods with
    /// the same token show the same hash.
    pub(super) fn show(&self, name: &str) -> String {
        if self.reveal {
            return name.to_owned();
        }
        let mut hash = Sha1::new();
        hash.update(self.secret.map_or(&[][..], Secret::as_bytes));
        hash.update([0]);
        hash.update(name);
        hash.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }

    fn show_all(&self, names: &[Arc<str>]) -> Vec<String> {
        names.iter().take(MAX_ROWS).map(|name| self.show(name)).collect()
    }
}
