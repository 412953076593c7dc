//! `/debug` for operators, behind a token: open connections, and why a user did or did not
//! get an event.
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
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};

use crate::web::state::AppState;
use crate::{audience::Viewer, auth::secret::Secret, hub::Answer, rfc3339};

/// The most rows of an answer. Further ones are left out.
const MAX_ROWS: usize = 1_000;

/// Parameters of both requests.
#[derive(Deserialize)]
pub struct Asked {
    event: Option<String>,
    user: Option<String>,
    #[serde(default)]
    reveal: bool,
}

/// Answers `GET /debug/connections`.
pub async fn connections(State(app): State<Arc<AppState>>, Query(asked): Query<Asked>) -> Response {
    let names = Names::new(&app, &asked);
    let viewers: HashMap<_, _> = app
        .hub
        .viewers()
        .into_iter()
        .map(|(send_queue, viewer)| (Arc::as_ptr(&send_queue), viewer))
        .collect();
    let (total, entries) = app.connections.entries(MAX_ROWS);
    let rows = entries.into_iter().map(|entry| {
        // The watchers show the viewer: a connection without watchers has no interests.
        let viewer = viewers.get(&Arc::as_ptr(&entry.send_queue));
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

/// Answers `GET /debug/explain?event=<id>&user=<id>`; without a user, the users that got the event.
pub async fn explain(State(app): State<Arc<AppState>>, Query(asked): Query<Asked>) -> Response {
    let names = Names::new(&app, &asked);
    let Some(event) = &asked.event else {
        return (StatusCode::BAD_REQUEST, "name the event: ?event=ID&user=ID\n").into_response();
    };
    let Some((relayed, record)) = app.hub.explain(event) else {
        return answer(&json!({ "event": event, "answer": "NOT_IN_WINDOW" }));
    };
    let receivers = record.told.iter().filter(|(_, answer)| **answer == Answer::Told);
    let receivers: Vec<_> = receivers.take(MAX_ROWS).map(|(user, _)| names.show(user)).collect();
    let why = asked.user.as_deref().map(|user| {
        let viewer: Option<Viewer> = app.auth.viewer(user);
        json!({
            "user": names.show(user),
            "interests": viewer.as_ref().map(|viewer| names.show_all(viewer.interests.keys())),
            "answer": record.answer(&relayed, user, viewer.as_ref()),
        })
    });
    answer(&json!({
        "event": event,
        "kind": &*relayed.event.kind,
        "fields": relayed.fields,
        "published": relayed.event.published.map(time),
        "received": time(record.received),
        "author": relayed.event.author.as_deref().map(|author| names.show(author)),
        "keys": names.show_all(relayed.audience.keys()),
        "matched_watchers": record.matched,
        "repeats": { "count": record.repeats, "answer": "ALREADY_SEEN" },
        "told": receivers,
        "told_is_cut": record.is_cut,
        "user": why,
    }))
}

fn answer(body: &Value) -> Response {
    ([(CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

fn time(time: SystemTime) -> String {
    rfc3339::write(time).unwrap_or_default()
}

/// Form in which users and keys are shown.
struct Names<'a> {
    reveal: bool,
    secret: Option<&'a Secret>,
}

impl<'a> Names<'a> {
    const fn new(app: &'a AppState, asked: &Asked) -> Self {
        Self { reveal: asked.reveal, secret: app.settings.reading_token() }
    }

    /// Returns the name itself, or a hash that only operators with the token can compute. Pods with
    /// the same token show the same hash.
    fn show(&self, name: &str) -> String {
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
